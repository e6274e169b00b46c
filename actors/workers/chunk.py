"""Chunks: fixed parts of an iteration's prompts. Without torch, as processes that only pass them on import this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tangoflux.data.prompts import Prompt
from tangoflux.seeding import derive_seed


@dataclass(frozen=True)
class Chunk:
    """The unit of work: prompts that are sampled in one call, whichever worker does it.

    Attributes:
        index: number of the chunk, and of its shard, in the iteration.
        prompts: sorted by id.
        seeds: for each prompt the noise seeds of its samples.
    """

    index: int
    iteration: int
    prompts: tuple[Prompt, ...]
    seeds: tuple[tuple[int, ...], ...]

    @property
    def samples(self) -> int:
        """Samples of all its prompts."""
        return sum(map(len, self.seeds))

    def __str__(self) -> str:
        return f"chunk {self.index} of iteration {self.iteration}"


def rollout_chunks(
    prompts: Sequence[Prompt], iteration: int, run_seed: int, num_samples: int, chunk_prompts: int
) -> list[Chunk]:
    """An iteration's work, in canonical order: chunks of ``chunk_prompts`` prompts (the last may have fewer).

    The noise of sample k of a prompt depends on (run_seed, iteration, prompt id, k) only.
    """
    return _chunks(prompts, iteration, num_samples, chunk_prompts, (run_seed, "rollout", iteration))


def heldout_chunks(
    prompts: Sequence[Prompt], iteration: int, heldout_seed: int, num_samples: int, chunk_prompts: int
) -> list[Chunk]:
    """As ``rollout_chunks``, with the same noise for every policy, so that policies are compared in pairs."""
    return _chunks(prompts, iteration, num_samples, chunk_prompts, (heldout_seed, "heldout"))


def _chunks(
    prompts: Sequence[Prompt], iteration: int, num_samples: int, chunk_prompts: int, noise: tuple[int | str, ...]
) -> list[Chunk]:
    ordered = sorted(prompts, key=lambda prompt: prompt.id)
    chunks: list[Chunk] = []
    for first in range(0, len(ordered), chunk_prompts):
        part = tuple(ordered[first : first + chunk_prompts])
        seeds = tuple(tuple(derive_seed(*noise, prompt.id, k) for k in range(num_samples)) for prompt in part)
        chunks.append(Chunk(len(chunks), iteration, part, seeds))
    return chunks

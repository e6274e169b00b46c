"""Sampling whose rows come and go between Euler steps, so that nobody waits for somebody else's steps.

A row has its own prompt, length, guidance, number of steps and place on its path: the transformer takes a sigma a row.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from tangoflux.flow import euler_sigmas
from tangoflux.model.conditioning import TextStates
from tangoflux.model.policy import Policy
from tangoflux.sampling import (
    Conditions,
    SampleRequest,
    batches_by_length,
    encode_prompts,
    guided_velocity,
    initial_noise,
)
from tangoflux.sampling_params import SamplingParams


@dataclass(eq=False)
class Row:
    """One sample under way.

    Attributes:
        latents: (frames, channels) float32 where the policy is; at ``sigmas[step]``.
        text, negative: of this row alone; ``negative`` is None without guidance.
        sigmas: those of its Euler steps, and at last 0.
        step: how many steps are done.
        alone: rows with the same key make a batch that no other row joins, so that nothing else changes a bit of them;
            None for rows that share.
    """

    latents: Tensor
    text: TextStates
    negative: TextStates | None
    duration_s: float
    guidance_scale: float
    sigmas: Sequence[float]
    step: int = 0
    alone: Hashable | None = None

    @property
    def is_done(self) -> bool:
        """Whether ``latents`` are those of the sample."""
        return self.step == len(self.sigmas) - 1


@torch.no_grad()
def start_rows(
    policy: Policy, request: SampleRequest, params: SamplingParams, alone: Hashable | None = None
) -> list[Row]:
    """The rows of a request, one a seed, before their first step. Encodes the prompt."""
    text, negative = encode_prompts(policy, [request.prompt], params)
    sigmas = euler_sigmas(params.num_steps).tolist()
    noise = initial_noise([request], policy.config.in_channels).to(policy.device)
    return [
        Row(latents, text, negative, request.duration_s, params.guidance_scale, sigmas, alone=alone)
        for latents in noise
    ]


class Flight:
    """The rows of one policy that are under way.

    Args:
        bf16: whether the policy computes in bfloat16.
        workers: step the batches side by side; without them one batch comes after the other.
        parts: into how many batches rows are divided at least, where there are so many: a CPU's cores do more with a
            batch each than with a batch together.
    """

    def __init__(self, policy: Policy, bf16: bool = False, workers: Executor | None = None, parts: int = 1) -> None:
        self.policy, self._bf16, self._workers, self._parts = policy, bf16, workers, parts
        self.rows: list[Row] = []
        self._batches: list[_Batch] = []

    def join(self, rows: Iterable[Row]) -> None:
        """Takes rows in; the next step is their first."""
        self._land()
        self.rows.extend(rows)

    def leave(self, rows: Iterable[Row]) -> None:
        """Gives rows up, wherever they are on their way."""
        self._land()
        leaving = set(rows)
        self.rows = [row for row in self.rows if row not in leaving]

    def step(self) -> list[Row]:
        """One Euler step of every row; returns those that are done, which have left."""
        if not self._batches:
            self._batches = [_Batch(self.policy, rows, self._bf16) for rows in _batches(self.rows, self._parts)]
        # Rows that are alone always go to the workers: other threads would round otherwise.
        if self._workers and (len(self._batches) > 1 or self.rows[0].alone is not None):
            list(self._workers.map(_Batch.step, self._batches))
        else:
            for batch in self._batches:
                batch.step()
        done = [row for row in self.rows if row.is_done]
        if done:
            self.leave(done)
        return done

    def _land(self) -> None:
        """Gives the rows their latents back; the next step makes new batches."""
        for batch in self._batches:
            batch.unstack()
        self._batches = []


class _Batch:
    """Rows of similar length, stacked for as long as the same ones fly."""

    def __init__(self, policy: Policy, rows: Sequence[Row], bf16: bool) -> None:
        self._policy, self._rows = policy, rows
        device = policy.device
        self._precision = partial(torch.autocast, device.type, torch.bfloat16, enabled=bf16)
        frames = torch.tensor([len(row.latents) for row in rows])
        tokens = max(row.text.states.shape[1] for row in rows)
        width = int(frames.max())
        guided = [index for index, row in enumerate(rows) if row.negative]
        self._latents = torch.stack([pad(row.latents, (0, 0, 0, width - len(row.latents))) for row in rows])
        self._conditions = Conditions(
            TextStates.concat([row.text.padded(tokens) for row in rows]),
            TextStates.concat([row.negative.padded(tokens) for row in rows if row.negative]) if guided else None,
            torch.tensor(guided, dtype=torch.long, device=device),
            torch.tensor([rows[index].guidance_scale for index in guided], device=device),
            torch.tensor([row.duration_s for row in rows], device=device),
            (torch.arange(width) < frames[:, None]).to(device),
        )

    @torch.no_grad()
    def step(self) -> None:
        ways = [(row.sigmas[row.step], row.sigmas[row.step + 1]) for row in self._rows]
        sigma = torch.tensor([sigma for sigma, _ in ways]).to(self._latents.device)
        length = torch.tensor([after - sigma for sigma, after in ways]).to(self._latents.device)
        with self._precision():
            velocity = guided_velocity(self._policy, self._latents, sigma, self._conditions)
        self._latents = self._latents + length[:, None, None] * velocity
        for row in self._rows:
            row.step += 1

    def unstack(self) -> None:
        for row, latents in zip(self._rows, self._latents, strict=True):
            row.latents = latents[: len(row.latents)]


def _batches(rows: Sequence[Row], parts: int) -> list[list[Row]]:
    """Rows that are stepped together: those with a key by their key, the others by length, in ``parts`` or more."""
    together: dict[Hashable | None, list[Row]] = {}
    for row in rows:
        together.setdefault(row.alone, []).append(row)
    shared = together.pop(None, [])
    by_length = batches_by_length([len(row.latents) for row in shared])
    while by_length and len(by_length) < parts and len(largest := max(by_length, key=len)) > 1:
        half = len(largest) // 2
        by_length.remove(largest)
        by_length += [largest[:half], largest[half:]]
    return [*together.values(), *([shared[index] for index in batch] for batch in by_length)]

"""Sampling in which rows join and leave between Euler steps, so that no request waits for another's steps.

Each row has its own prompt, length, guidance and schedule of steps: the transformer takes a sigma per row.
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
    """A sample in progress.

    Attributes:
        latents: (frames, channels) float32 on the policy's device, at ``sigmas[step]``.
        text: the encoded prompt, of this row only.
        negative: the encoded negative prompt; None without guidance.
        sigmas: the schedule of its Euler steps; the last one is 0.
        step: number of finished steps.
        batch_key: rows with the same key are stepped together and with no other row, so that other rows do not change
            a bit of them; None for rows that may share a batch.
    """

    latents: Tensor
    text: TextStates
    negative: TextStates | None
    duration_s: float
    guidance_scale: float
    sigmas: Sequence[float]
    step: int = 0
    batch_key: Hashable | None = None

    @property
    def is_done(self) -> bool:
        """Whether ``latents`` are final."""
        return self.step == len(self.sigmas) - 1


@torch.no_grad()
def start_rows(
    policy: Policy, request: SampleRequest, params: SamplingParams, batch_key: Hashable | None = None
) -> list[Row]:
    """Encodes the prompt and returns the request's rows before their first step, one per seed."""
    text, negative = encode_prompts(policy, [request.prompt], params)
    sigmas = euler_sigmas(params.num_steps).tolist()
    noise = initial_noise([request], policy.config.in_channels).to(policy.device)
    return [
        Row(latents, text, negative, request.duration_s, params.guidance_scale, sigmas, batch_key=batch_key)
        for latents in noise
    ]


class RunningBatch:
    """The rows of one policy that are being sampled.

    Args:
        bf16: whether the policy computes in bfloat16.
        workers: threads that step the stacks of rows in parallel; without them, one stack is stepped after another.
        min_stacks: the rows are split into at least this many stacks, if there are enough rows: a CPU is faster with
            one stack per core than with all cores on one.
    """

    def __init__(
        self, policy: Policy, bf16: bool = False, workers: Executor | None = None, min_stacks: int = 1
    ) -> None:
        self.policy, self._bf16, self._workers, self._min_stacks = policy, bf16, workers, min_stacks
        self.rows: list[Row] = []
        self._stacks: list[_Stack] = []

    def add(self, rows: Iterable[Row]) -> None:
        """Adds rows; the next step is their first."""
        self._unstack()
        self.rows.extend(rows)

    def remove(self, rows: Iterable[Row]) -> None:
        """Removes rows, finished or not; their ``latents`` are up to date afterwards."""
        self._unstack()
        removed = set(rows)
        self.rows = [row for row in self.rows if row not in removed]

    def step(self) -> None:
        """Takes one Euler step of every row. Rows that are done must be removed before the next one."""
        if not self._stacks:
            self._stacks = [_Stack(self.policy, rows, self._bf16) for rows in _split(self.rows, self._min_stacks)]
        # Rows with a key always go to the workers: another number of threads would round differently.
        if self._workers and (len(self._stacks) > 1 or self.rows[0].batch_key is not None):
            list(self._workers.map(_Stack.step, self._stacks))
        else:
            for stack in self._stacks:
                stack.step()

    def _unstack(self) -> None:
        """Writes the latents back to the rows; the next step stacks them anew."""
        for stack in self._stacks:
            stack.unstack()
        self._stacks = []


class _Stack:
    """Rows of similar length, stacked for as long as the running batch stays the same."""

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
        spans = [(row.sigmas[row.step], row.sigmas[row.step + 1]) for row in self._rows]
        sigma = torch.tensor([start for start, _ in spans]).to(self._latents.device)
        length = torch.tensor([end - start for start, end in spans]).to(self._latents.device)
        with self._precision():
            velocity = guided_velocity(self._policy, self._latents, sigma, self._conditions)
        self._latents = self._latents + length[:, None, None] * velocity
        for row in self._rows:
            row.step += 1

    def unstack(self) -> None:
        for row, latents in zip(self._rows, self._latents, strict=True):
            row.latents = latents[: len(row.latents)]


def _split(rows: Sequence[Row], min_stacks: int) -> list[list[Row]]:
    """Rows with a key by their key, the others by length, into at least ``min_stacks`` groups."""
    by_key: dict[Hashable | None, list[Row]] = {}
    for row in rows:
        by_key.setdefault(row.batch_key, []).append(row)
    shared = by_key.pop(None, [])
    by_length = batches_by_length([len(row.latents) for row in shared])
    while by_length and len(by_length) < min_stacks and len(largest := max(by_length, key=len)) > 1:
        half = len(largest) // 2
        by_length.remove(largest)
        by_length += [largest[:half], largest[half:]]
    return [*by_key.values(), *([shared[index] for index in indices] for indices in by_length)]

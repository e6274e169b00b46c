"""Which groups an optimiser step sees, in which order, and with which noise.

All of this follows from (seed, iteration, epoch, group id) and the global batch size. The number of ranks only decides
which rank computes which groups of a global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.learner.schedule import num_heldout, num_trained
from actors.learner.settings import LearnerSettings
from tangoflux.flow import logit_normal_sigma, sampler_sigma
from tangoflux.seeding import seeded_generator

POOL_BATCHES = 16
"""Batches whose rows ``grouped_by_length`` sorts together."""

NoiseKey = tuple[int, int, int | str]
"""Run seed, iteration and epoch (or the name of a measurement)."""


def group_noise(key: NoiseKey, group_id: str, frames: int, channels: int) -> Tensor:
    """The noise (frames, channels) of a group in an epoch.

    The samples of a group share it, for all objectives: what is learned is a difference between samples, and the part
    of their errors that comes from the noise then cancels.
    """
    return torch.randn(frames, channels, generator=seeded_generator("learner noise", *key, group_id))


def group_sigma(key: NoiseKey, group_id: str, num_steps: int | None = None, min_sigma: float | None = None) -> Tensor:
    """The sigma (1,) of a group in an epoch, which its samples share.

    Args:
        num_steps: Euler steps that drew its samples; None: no policy did.
        min_sigma: sigma is one of theirs from this up; None, as for samples that no policy drew: logit-normal.
    """
    source = seeded_generator("learner sigma", *key, group_id)
    if min_sigma is None or num_steps is None:
        return logit_normal_sigma(1, source)
    return sampler_sigma(num_steps, min_sigma, source)


def split_heldout(rows: int, most: int, seed: int, iteration: int) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to hold out (see ``num_heldout``), both in ascending order."""
    heldout = num_heldout(rows, most)
    permutation = torch.randperm(rows, generator=seeded_generator("learner heldout", seed, iteration)).tolist()
    return sorted(permutation[heldout:]), sorted(permutation[:heldout])


def largest_margins(rows: Sequence[int], margins: NDArray[np.float64], share: float) -> list[int]:
    """The ``share`` of ``rows``, rounded up, with the largest margins, in ascending order; all if one is NaN."""
    of_rows = margins[list(rows)]
    if np.isnan(of_rows).any():
        return list(rows)
    best = np.argsort(-of_rows, kind="stable")[: num_trained(len(rows), 0, share)]
    return sorted(rows[index] for index in best.tolist())


def epoch_order(rows: Sequence[int], key: NoiseKey) -> list[int]:
    """The order in which an epoch sees ``rows``."""
    permutation = torch.randperm(len(rows), generator=seeded_generator("learner order", *key))
    return [rows[index] for index in permutation.tolist()]


def grouped_by_length(order: Sequence[int], length: Callable[[int], int], batch_size: int, key: NoiseKey) -> list[int]:
    """``order`` with rows of similar length in a batch, so that little of a batch is padding.

    Within each ``POOL_BATCHES`` batches of the order, rows are sorted by length and the batches shuffled; an
    incomplete batch stays the last one.
    """
    size = POOL_BATCHES * batch_size
    grouped: list[int] = []
    for start in range(0, len(order), size):
        pool = sorted(order[start : start + size], key=length)
        short = len(pool) % batch_size
        batches = [pool[index : index + batch_size] for index in range(short, len(pool), batch_size)]
        shuffled = epoch_order(range(len(batches)), (*key[:2], f"lengths {start} {key[2]}"))
        grouped += [row for index in shuffled for row in batches[index]] + pool[:short]
    return grouped


def micro_steps(settings: LearnerSettings) -> int:
    """Forward passes of a rank in an optimiser step: the same for every rank and step, as DeepSpeed requires."""
    rank_rows = -(-settings.batch_size // settings.workers)
    return -(-rank_rows // settings.micro_batch_size)


def rank_share(batch: Sequence[int], settings: LearnerSettings, rank: int) -> list[list[int]]:
    """A rank's rows of a global batch, one list per micro-step.

    A list is empty where an uneven batch has no row for this rank and micro-step.
    """
    rows, size = batch[rank :: settings.workers], settings.micro_batch_size
    return [list(rows[index * size : (index + 1) * size]) for index in range(micro_steps(settings))]

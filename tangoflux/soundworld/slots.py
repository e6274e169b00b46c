"""Scene contents as tensors: a kind and a count for each of three slots, and whether the events overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tangoflux.soundworld.events import KINDS
from tangoflux.soundworld.scenes import MAX_COUNT, MAX_EVENTS, SceneContent

NO_EVENT = len(KINDS)
_NOT_SCORED = -100
_KIND_LOGITS = MAX_EVENTS * (len(KINDS) + 1)
_COUNT_LOGITS = MAX_EVENTS * MAX_COUNT

SLOT_LOGITS = _KIND_LOGITS + _COUNT_LOGITS + 1
"""The number of logits that describe one scene."""


class SlotTargets(NamedTuple):
    """Kinds (B, 3) with `NO_EVENT` for empty slots, counts minus one (B, 3), overlap (B,) of 0 and 1."""

    kinds: Tensor
    counts: Tensor
    overlap: Tensor


class SlotLogits(NamedTuple):
    """Logits of kinds (B, 3, 13), counts (B, 3, 3) and overlap (B,)."""

    kinds: Tensor
    counts: Tensor
    overlap: Tensor


def slot_targets(contents: Sequence[SceneContent]) -> SlotTargets:
    """The contents as targets; an empty slot has no count to score."""
    kinds = torch.full((len(contents), MAX_EVENTS), NO_EVENT)
    counts = torch.full((len(contents), MAX_EVENTS), _NOT_SCORED)
    for row, content in enumerate(contents):
        for slot, event in enumerate(content.events):
            kinds[row, slot] = KINDS.index(event.kind)
            counts[row, slot] = event.count - 1
    return SlotTargets(kinds, counts, torch.tensor([float(content.overlap) for content in contents]))


def split_logits(logits: Tensor) -> SlotLogits:
    """Splits (B, SLOT_LOGITS) into logits of kinds, counts and overlap."""
    kinds, counts, overlap = logits.split([_KIND_LOGITS, _COUNT_LOGITS, 1], dim=-1)
    return SlotLogits(
        kinds.unflatten(-1, (MAX_EVENTS, len(KINDS) + 1)), counts.unflatten(-1, (MAX_EVENTS, MAX_COUNT)), overlap[:, 0]
    )


def slot_loss(logits: SlotLogits, targets: SlotTargets) -> Tensor:
    """The mean negative log-likelihood of a slot's kind, of its count, and of the overlap, added up."""
    kinds = F.cross_entropy(logits.kinds.flatten(0, 1).float(), targets.kinds.flatten())
    counts = F.cross_entropy(logits.counts.flatten(0, 1).float(), targets.counts.flatten(), ignore_index=_NOT_SCORED)
    return kinds + counts + F.binary_cross_entropy_with_logits(logits.overlap.float(), targets.overlap)

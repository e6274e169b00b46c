"""Activity of the kinds over time: from units to frames of 32 ms, and from frames to a scene's content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, groupby

import numpy as np
from numpy.typing import NDArray

from tangoflux.soundworld.events import KINDS
from tangoflux.soundworld.scenes import Event, SceneContent, Unit

FRAME_S = 0.032
FRAMES = 126

Segment = tuple[int, int]
"""The first frame in which a kind is heard, and the first in which it is not any more."""

_LOUD = 0.5
_CERTAIN = 0.6
_MIN_FRAMES = 3  # a shorter segment is no unit; the shortest unit has 8 frames
_BRIDGED_FRAMES = 2  # a shorter gap is none; the gap between two units has at least 4 frames
_SHARED = 0.5  # kinds that are heard together for this share of the shorter one are at the same time


def activity_of(units: Sequence[Unit]) -> NDArray[np.float32]:
    """(FRAMES, kinds) of 0 and 1: whether a kind is audible in each frame."""
    time = np.arange(FRAMES) * FRAME_S
    activity = np.zeros((FRAMES, len(KINDS)), dtype=np.float32)
    for unit in units:
        inside = (time >= unit.onset_s) & (time <= unit.onset_s + unit.length_s)
        activity[inside, KINDS.index(unit.kind)] = 1.0
    return activity


def read_activity(probability: NDArray[np.float32]) -> SceneContent:
    """The content of activity probabilities (frames, kinds).

    Segments of a kind are its units; consecutive units of a kind are an event; kinds that mostly sound together
    overlap. The result may be impossible for a scene (four barks).
    """
    return read_segments(segments(probability))


def read_segments(heard: Mapping[str, Sequence[Segment]]) -> SceneContent:
    """The content of the segments of each kind, see ``read_activity``."""
    if any(together(heard[first], heard[second]) for first, second in combinations(heard, 2)):
        return SceneContent(tuple(Event(kind, len(found)) for kind, found in heard.items()), overlap=True)
    units = sorted((start, end, KINDS.index(kind)) for kind, found in heard.items() for start, end in found)
    runs = groupby(kind for _, _, kind in units)
    return SceneContent(tuple(Event(KINDS[kind], len(list(run))) for kind, run in runs))


def segments(probability: NDArray[np.float32]) -> dict[str, list[Segment]]:
    """Of activity probabilities (frames, kinds), the segments of each kind that is heard, in the order of ``KINDS``."""
    found = {kind: _segments(probability[:, column]) for column, kind in enumerate(KINDS)}
    return {kind: heard for kind, heard in found.items() if heard}


def together(first: Sequence[Segment], second: Sequence[Segment]) -> bool:
    """Whether two kinds share most of the frames of the shorter one."""
    one, other = ({frame for start, end in heard for frame in range(start, end)} for heard in (first, second))
    return len(one & other) > _SHARED * min(len(one), len(other))


def _segments(probability: NDArray[np.float32]) -> list[Segment]:
    """The [start, end) frames in which one kind is heard."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], probability > _LOUD, [0]))))
    joined: list[Segment] = []
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if joined and start - joined[-1][1] <= _BRIDGED_FRAMES:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return [
        (start, end) for start, end in joined if end - start >= _MIN_FRAMES and probability[start:end].max() > _CERTAIN
    ]

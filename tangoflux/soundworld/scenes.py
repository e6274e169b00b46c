"""Scenes: one to three events, in order or at once, how they are drawn, split and rendered."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Literal

import numpy as np

from tangoflux.soundworld.events import KINDS, SAMPLE_RATE_HZ, Samples, synthesise

Split = Literal["train", "crpo", "dev", "test", "all"]
Shape = Literal["single", "then", "overlap", "three"]

MAX_COUNT = 3
MAX_EVENTS = 3
MAX_DURATION_S = 4.0

_SPLIT_SEED = 12
_DEV_PAIRS, _TEST_PAIRS = 6, 12
_MIN_UNIT_S = 0.3
_PLANNED_UNIT_S = 0.35
_REPEAT_GAP_S = (0.15, 0.25)
_EVENT_GAP_S = (0.08, 0.2)
_MARGIN_S = (0.0, 0.08)
_REPEATED_SHARE = 0.4
_AUDIBLE = 0.03
_TRAIN_MIX: dict[Shape, float] = {"single": 0.25, "then": 0.35, "overlap": 0.15, "three": 0.25}
_COMBINED_MIX: dict[Shape, float] = {"then": 0.5, "overlap": 0.2, "three": 0.3}


@dataclass(frozen=True)
class Event:
    """A kind of sound and how many times in a row it occurs (1 to 3)."""

    kind: str
    count: int = 1


@dataclass(frozen=True)
class SceneContent:
    """The content of a scene and its caption: the events, in order or (`overlap`) at the same time.

    Overlapping events have no order: they are stored in the canonical order of the kinds.
    """

    events: tuple[Event, ...]
    overlap: bool = False

    def __post_init__(self) -> None:
        """Put the events of an overlap into the canonical order."""
        if self.overlap:
            object.__setattr__(self, "events", tuple(sorted(self.events, key=lambda event: KINDS.index(event.kind))))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the events, in the scene's order."""
        return tuple(event.kind for event in self.events)


@dataclass(frozen=True)
class Unit:
    """One audible occurrence of a kind in a rendered scene, in seconds from the scene's start."""

    kind: str
    onset_s: float
    length_s: float


@dataclass(frozen=True)
class Scene:
    """A content with a length in seconds (a multiple of 0.5, from 1 to 4)."""

    events: tuple[Event, ...]
    overlap: bool
    duration_s: float

    @property
    def content(self) -> SceneContent:
        """The scene without its length."""
        return SceneContent(self.events, self.overlap)


@cache
def _held_out_pairs() -> dict[frozenset[str], Split]:
    """The pairs of kinds kept for "dev" and "test".

    Each round uses every kind once, so that the held-out pairs, and thus the training pairs, are spread evenly.
    """
    rng = np.random.default_rng(_SPLIT_SEED)
    held_out: dict[frozenset[str], Split] = {}
    while len(held_out) < _DEV_PAIRS + _TEST_PAIRS:
        order = rng.permutation(len(KINDS)).reshape(-1, 2)
        drawn = [frozenset((KINDS[first], KINDS[second])) for first, second in order]
        if any(pair in held_out for pair in drawn):
            continue
        for pair in drawn[: _DEV_PAIRS + _TEST_PAIRS - len(held_out)]:
            held_out[pair] = "dev" if len(held_out) < _DEV_PAIRS else "test"
    return held_out


def split_of(kinds: Iterable[str]) -> Split | None:
    """The split of a combination of kinds: "train", "dev", "test", or None (not used)."""
    held_out = _held_out_pairs()
    found = {held_out.get(frozenset(pair), "train") for pair in combinations(kinds, 2)}
    if found <= {"train"}:
        return "train"
    if {"dev", "test"} <= found:
        return None
    return "dev" if "dev" in found else "test"


def held_out_pair(kinds: Iterable[str]) -> tuple[str, ...] | None:
    """The first pair among the kinds that is kept for "dev" or "test", sorted by name."""
    pairs = (pair for pair in combinations(sorted(set(kinds)), 2) if frozenset(pair) in _held_out_pairs())
    return next(pairs, None)


@cache
def combinations_of(split: Split, size: int) -> tuple[tuple[str, ...], ...]:
    """All unordered combinations of `size` different kinds that belong to a split.

    "crpo" uses those of "train"; "all" has every combination, for models that only measure.
    """
    wanted = "train" if split == "crpo" else split
    return tuple(kinds for kinds in combinations(KINDS, size) if split == "all" or split_of(kinds) == wanted)


def _shape(rng: np.random.Generator, split: Split) -> Shape:
    mix = _TRAIN_MIX if split in ("train", "all") else _COMBINED_MIX
    shapes = tuple(mix)
    return shapes[int(rng.choice(len(shapes), p=list(mix.values())))]


def _shortest_s(content: SceneContent) -> float:
    """The shortest multiple of half a second with room for every unit and gap."""
    counts = [event.count for event in content.events]
    units = max(counts) if content.overlap else sum(counts)
    needed = units * _PLANNED_UNIT_S + (units - 1) * _REPEAT_GAP_S[1] + 2 * _MARGIN_S[1]
    return max(1.0, math.ceil(2 * needed) / 2)


def random_scene(rng: np.random.Generator, split: Split) -> Scene:
    """Draw a scene of a split; "dev" and "test" hold only combinations that "train" and "crpo" never have."""
    shape = _shape(rng, split)
    size = {"single": 1, "then": 2, "overlap": 2, "three": 3}[shape]
    candidates = combinations_of(split, size)
    kinds = [str(kind) for kind in rng.permutation(candidates[int(rng.integers(len(candidates)))])]
    repeated = int(rng.integers(size)) if rng.uniform() < _REPEATED_SHARE else None
    counts = [int(rng.integers(2, MAX_COUNT + 1)) if index == repeated else 1 for index in range(size)]
    content = SceneContent(tuple(Event(*pair) for pair in zip(kinds, counts, strict=True)), shape == "overlap")
    shortest = _shortest_s(content)
    steps = round(2 * (min(shortest + 1.5, MAX_DURATION_S) - shortest))
    return Scene(content.events, content.overlap, shortest + 0.5 * int(rng.integers(steps + 1)))


def _lay_out(events: tuple[Event, ...], duration_s: float, rng: np.random.Generator) -> list[list[tuple[float, float]]]:
    """For each event the (onset, length) in seconds of its units, one after another within the duration."""
    gaps: list[float] = []
    for event in events:
        gaps += [rng.uniform(*_REPEAT_GAP_S)] * (event.count - 1) + [rng.uniform(*_EVENT_GAP_S)]
    onset = rng.uniform(*_MARGIN_S)
    units = sum(event.count for event in events)
    spare = duration_s - onset - sum(gaps[:-1]) - rng.uniform(*_MARGIN_S) - units * _MIN_UNIT_S
    weights = rng.uniform(0.7, 1.3, size=len(events))
    total = sum(weight * event.count for weight, event in zip(weights, events, strict=True))
    layout: list[list[tuple[float, float]]] = []
    for event, weight in zip(events, weights, strict=True):
        length = _MIN_UNIT_S + spare * float(weight) / float(total)
        spans: list[tuple[float, float]] = []
        for _ in range(event.count):
            spans.append((onset, length))
            onset += length + gaps.pop(0)
        layout.append(spans)
    return layout


def render(scene: Scene, rng: np.random.Generator) -> Samples:
    """Synthesise a scene.

    Args:
        scene: what to synthesise.
        rng: decides the timing, loudness and timbre.

    Returns:
        Exactly `duration_s * 16000` samples at 16 kHz, float32, with a peak below 1.
    """
    return render_with_units(scene, rng)[0]


def render_with_units(scene: Scene, rng: np.random.Generator) -> tuple[Samples, list[Unit]]:
    """Synthesise a scene as `render` does, and return when each of its units is audible."""
    waveform = np.zeros(round(scene.duration_s * SAMPLE_RATE_HZ), dtype=np.float32)
    if scene.overlap:
        layout = [_lay_out((event,), scene.duration_s, rng)[0] for event in scene.events]
    else:
        layout = _lay_out(scene.events, scene.duration_s, rng)
    units: list[Unit] = []
    level = rng.uniform(0.3, 0.9)
    for event, spans in zip(scene.events, layout, strict=True):
        event_level = level * rng.uniform(0.65, 1.0)
        timbre = int(rng.integers(2**63))
        for onset_s, length_s in spans:
            # The repetitions of an event are one and the same source.
            unit = synthesise(event.kind, length_s, np.random.default_rng(timbre))
            start = round(onset_s * SAMPLE_RATE_HZ)
            target = waveform[start : start + len(unit)]
            target += np.float32(event_level * rng.uniform(0.9, 1.0)) * unit[: len(target)]
            units.append(Unit(event.kind, onset_s, _audible_s(unit)))
    peak = float(np.abs(waveform).max())
    return (waveform * np.float32(0.97 / peak) if peak > 0.97 else waveform), units


def _audible_s(unit: Samples) -> float:
    """The length in seconds until a unit with a peak of 1 has died away."""
    return float(np.flatnonzero(np.abs(unit) > _AUDIBLE)[-1] + 1) / SAMPLE_RATE_HZ

"""Captions of scenes: exact ones, noisy ones, and parsing a caption."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from tangoflux.soundworld.events import KINDS
from tangoflux.soundworld.scenes import MAX_COUNT, MAX_EVENTS, Event, Scene, SceneContent, split_of

Corruption = Literal["drop", "swap", "replace", "count", "relation", "add"]


@dataclass(frozen=True)
class _Words:
    """The words for a kind: clauses that can be counted, clauses that cannot, a noun and its plural."""

    clauses: tuple[str, ...]
    lasting: tuple[str, ...]
    noun: str
    plural: str


_WORDS: dict[str, _Words] = {
    "beep": _Words(("a device beeps", "a beep sounds"), ("a device is beeping",), "a beep", "beeps"),
    "rise": _Words(("a tone rises", "a rising tone sounds"), ("a tone is rising",), "a rising tone", "rising tones"),
    "fall": _Words(
        ("a tone falls", "a falling tone sounds"), ("a tone is falling",), "a falling tone", "falling tones"
    ),
    "siren": _Words(("a siren wails", "a siren sounds"), ("a siren is wailing",), "a siren", "sirens"),
    "bell": _Words(("a bell rings", "a bell chimes"), ("a bell is ringing",), "a bell", "bells"),
    "clicks": _Words(
        ("a ratchet clicks", "a ratchet rattles"), ("a ratchet is clicking",), "a rattle of clicks", "rattles of clicks"
    ),
    "hiss": _Words(("steam hisses", "a hiss is heard"), ("steam is hissing",), "a hiss", "hisses"),
    "rumble": _Words(("thunder rumbles", "a rumble is heard"), ("thunder is rumbling",), "a rumble", "rumbles"),
    "bark": _Words(("a dog barks", "a bark is heard"), ("a dog is barking",), "a dog bark", "dog barks"),
    "bird": _Words(("a bird sings", "a bird chirps"), ("a bird is singing",), "a bird call", "bird calls"),
    "drum": _Words(("a drum beats", "someone hits a drum"), ("a drum is beating",), "a drum hit", "drum hits"),
    "buzz": _Words(("a buzzer buzzes", "an insect buzzes"), ("a buzzer is buzzing",), "a buzz", "buzzes"),
}

_TIMES: dict[int, tuple[str, ...]] = {2: ("twice", "two times"), 3: ("three times",)}
_NUMBERS: dict[int, str] = {2: "two", 3: "three"}

# {A} is a clause and {a} a noun phrase of the first event, {B} and {b} of the second, {C} and {c} of the third.
_SINGLE = ("{A}", "the sound of {a}")
_THEN = (
    "{A} then {B}",
    "{A} and then {B}",
    "{A} before {B}",
    "{B} after {A}",
    "first {A}, then {B}",
    "{a} followed by {b}",
    "{a}, followed by {b}",
    "{a} and then {b}",
)
_OVERLAP = (
    "{A} while {B}",
    "{A} as {B}",
    "{A} and {B} at the same time",
    "{a} together with {b}",
    "{a} during {b}",
)
_THREE = (
    "first {A}, then {B} and finally {C}",
    "{A}, then {B}, then {C}",
    "{A} then {B} and finally {C}",
    "{a} followed by {b} and then {c}",
    "{a}, then {b} and finally {c}",
)
_SLOTS = "ABC"


def _clauses(event: Event) -> tuple[str, ...]:
    words = _WORDS[event.kind]
    if event.count == 1:
        return words.clauses + words.lasting
    return tuple(f"{clause} {times}" for clause in words.clauses for times in _TIMES[event.count])


def _noun(event: Event) -> str:
    words = _WORDS[event.kind]
    return words.noun if event.count == 1 else f"{_NUMBERS[event.count]} {words.plural}"


def _templates(content: SceneContent) -> tuple[str, ...]:
    if content.overlap:
        return _OVERLAP
    return (_SINGLE, _THEN, _THREE)[len(content.events) - 1]


def caption(scene: Scene | SceneContent, rng: np.random.Generator) -> str:
    """A sentence, in lower case, that describes the scene exactly."""
    content = scene.content if isinstance(scene, Scene) else scene
    templates = _templates(content)
    events = list(content.events)
    if content.overlap and rng.uniform() < 0.5:
        events.reverse()
    fields: dict[str, str] = {}
    for slot, event in zip(_SLOTS, events, strict=False):
        clauses = _clauses(event)
        fields[slot] = clauses[int(rng.integers(len(clauses)))]
        fields[slot.lower()] = _noun(event)
    return templates[int(rng.integers(len(templates)))].format(**fields)


@cache
def _readings(as_noun: bool) -> dict[str, Event]:
    events = [Event(kind, count) for kind in KINDS for count in range(1, MAX_COUNT + 1)]
    if as_noun:
        return {_noun(event): event for event in events}
    return {clause: event for event in events for clause in _clauses(event)}


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], bool], ...]:
    """Each template as a regular expression over all readings of its events, and whether the events overlap."""
    clauses, nouns = ("|".join(map(re.escape, _readings(as_noun))) for as_noun in (False, True))
    patterns: list[tuple[re.Pattern[str], bool]] = []
    for templates, overlap in ((_SINGLE, False), (_THEN, False), (_OVERLAP, True), (_THREE, False)):
        for template in templates:
            pattern = template
            for slot in _SLOTS:
                pattern = pattern.replace(f"{{{slot}}}", f"(?P<{slot}>{clauses})")
                pattern = pattern.replace(f"{{{slot.lower()}}}", f"(?P<{slot.lower()}>{nouns})")
            patterns.append((re.compile(pattern), overlap))
    return tuple(patterns)


@dataclass(frozen=True)
class Mention:
    """An event of a caption, and the characters from ``start`` up to ``end`` that name it."""

    event: Event
    start: int
    end: int


def find_mentions(text: str) -> tuple[tuple[Mention, ...], bool] | None:
    """The events that a caption names, in the order of the scene, and whether they are at the same time.

    None if ``text`` is not a sentence of the sound world, as ``caption`` writes them.
    """
    for pattern, overlap in _patterns():
        match = pattern.fullmatch(text)
        if match is None:
            continue
        found = sorted(match.groupdict().items(), key=lambda item: item[0].lower())
        return tuple(Mention(_readings(slot.islower())[words], *match.span(slot)) for slot, words in found), overlap
    return None


def parse(text: str) -> SceneContent | None:
    """The content of a caption, or None if it is not a sentence of the sound world.

    Case, surrounding space and a final full stop are ignored.
    """
    found = find_mentions(text.strip().lower().removesuffix("."))
    return SceneContent(tuple(mention.event for mention in found[0]), found[1]) if found else None


def possible_corruptions(content: SceneContent) -> tuple[Corruption, ...]:
    """The mistakes that a caption from the web may have: every way to make it wrong but to add an event."""
    if len(content.events) == 1:
        return ("replace", "count")
    if len(content.events) == 2:
        return (
            ("drop", "replace", "count", "relation")
            if content.overlap
            else ("drop", "swap", "replace", "count", "relation")
        )
    return ("drop", "swap", "replace", "count")


def all_corruptions(content: SceneContent) -> tuple[Corruption, ...]:
    """Every way to make a caption of this content wrong; to add an event only where there is room for one in order."""
    full = content.overlap or len(content.events) == MAX_EVENTS
    return possible_corruptions(content) if full else (*possible_corruptions(content), "add")


def corrupt(content: SceneContent, corruption: Corruption, rng: np.random.Generator) -> SceneContent:
    """A content that differs in one respect and adds no held-out combination.

    Args:
        content: the true content.
        corruption: one of `all_corruptions(content)`.
        rng: picks the event to change.
    """
    events = list(content.events)
    index = int(rng.integers(len(events)))
    if corruption == "drop":
        del events[index]
        return SceneContent(tuple(events), content.overlap and len(events) > 1)
    if corruption == "add":
        events.insert(int(rng.integers(len(events) + 1)), Event(_other_kind(content.kinds, content.kinds, rng)))
        return SceneContent(tuple(events))
    if corruption == "swap":
        other = (index + 1 + int(rng.integers(len(events) - 1))) % len(events)
        events[index], events[other] = events[other], events[index]
    elif corruption == "replace":
        events[index] = replace(
            events[index], kind=_other_kind(content.kinds, content.kinds[:index] + content.kinds[index + 1 :], rng)
        )
    elif corruption == "count":
        counts = [count for count in range(1, MAX_COUNT + 1) if count != events[index].count]
        events[index] = replace(events[index], count=counts[int(rng.integers(len(counts)))])
    return SceneContent(tuple(events), content.overlap != (corruption == "relation"))


def _other_kind(kinds: tuple[str, ...], rest: tuple[str, ...], rng: np.random.Generator) -> str:
    """A kind that is none of ``kinds``, to be beside ``rest``."""
    others = [kind for kind in KINDS if kind not in kinds]
    allowed = [kind for kind in others if split_of((*rest, kind)) in ("train", split_of(kinds))]
    candidates = allowed or others
    return candidates[int(rng.integers(len(candidates)))]


def noisy_caption(scene: Scene, rng: np.random.Generator, noise: float) -> str:
    """A caption that with probability `noise` is wrong in one respect, as captions from the web are.

    It omits an event, swaps the order, names another kind, or has a wrong count.
    """
    content = scene.content
    if rng.uniform() >= noise:
        return caption(content, rng)
    ways: list[Corruption] = [way for way in possible_corruptions(content) if way != "relation"]
    return caption(corrupt(content, ways[int(rng.integers(len(ways)))], rng), rng)

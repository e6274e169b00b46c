"""What kind a prompt of the sound world is of, and which prompts are alike."""

from __future__ import annotations

from typing import Literal

from tangoflux.soundworld.captions import parse
from tangoflux.soundworld.scenes import Shape, held_out_pair

PromptShape = Literal[Shape, "repeated"]
"""One event, two in order, two at once, three in order; and those with an event that is repeated."""

_IN_ORDER: tuple[Shape, ...] = ("single", "then", "three")


def combination(prompt: str) -> str:
    """What makes prompts alike: the held-out pair of kinds that they contain, else their kinds, else the text."""
    content = parse(prompt)
    if content is None:
        return prompt
    return "+".join(held_out_pair(content.kinds) or sorted(set(content.kinds)))


def shapes_of(prompt: str) -> set[PromptShape]:
    """The shapes of a prompt; none if it is not a sentence of the sound world."""
    content = parse(prompt)
    if content is None:
        return set()
    shape: PromptShape = "overlap" if content.overlap else _IN_ORDER[len(content.events) - 1]
    return {shape, "repeated"} if any(event.count > 1 for event in content.events) else {shape}

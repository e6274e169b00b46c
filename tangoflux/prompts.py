"""Prompts: what a sample is asked to sound like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """A caption, the length in seconds of the audio wanted for it, and an id that is unique in its bank."""

    id: str
    text: str
    duration_s: float

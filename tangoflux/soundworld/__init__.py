"""The sound world: procedural scenes of sound events with exact captions, from which the embedded default is made."""

from tangoflux.soundworld.bank import bank
from tangoflux.soundworld.captions import caption, corrupt, noisy_caption, parse, possible_corruptions
from tangoflux.soundworld.events import KINDS, SAMPLE_RATE_HZ, synthesise
from tangoflux.soundworld.scenes import (
    MAX_COUNT,
    MAX_DURATION_S,
    MAX_EVENTS,
    Event,
    Scene,
    SceneContent,
    Split,
    Unit,
    combinations_of,
    random_scene,
    render,
    render_with_units,
    split_of,
)

__all__ = [
    "KINDS",
    "MAX_COUNT",
    "MAX_DURATION_S",
    "MAX_EVENTS",
    "SAMPLE_RATE_HZ",
    "Event",
    "Scene",
    "SceneContent",
    "Split",
    "Unit",
    "bank",
    "caption",
    "combinations_of",
    "corrupt",
    "noisy_caption",
    "parse",
    "possible_corruptions",
    "random_scene",
    "render",
    "render_with_units",
    "split_of",
    "synthesise",
]

"""Prompt banks of the sound world."""

from __future__ import annotations

import numpy as np

from tangoflux.data.prompts import Prompt
from tangoflux.soundworld.captions import caption
from tangoflux.soundworld.scenes import Split, random_scene

_SPLITS: tuple[Split, ...] = ("train", "crpo", "dev", "test", "all")
_MAX_REDRAWS = 49


def bank(split: Split, n: int, seed: int) -> list[Prompt]:
    """The first `n` prompts of a split for a seed; a larger bank begins with the smaller one.

    No two prompts have the same caption and duration, unless a split is nearly exhausted.
    """
    rng = np.random.default_rng([seed, _SPLITS.index(split)])
    seen: set[tuple[str, float]] = set()
    prompts: list[Prompt] = []
    for index in range(n):
        text, duration_s = _draw(split, rng)
        for _ in range(_MAX_REDRAWS):
            if (text, duration_s) not in seen:
                break
            text, duration_s = _draw(split, rng)
        seen.add((text, duration_s))
        prompts.append(Prompt(f"{split}-{index:06d}", text, duration_s))
    return prompts


def _draw(split: Split, rng: np.random.Generator) -> tuple[str, float]:
    scene = random_scene(rng, split)
    return caption(scene, rng), scene.duration_s

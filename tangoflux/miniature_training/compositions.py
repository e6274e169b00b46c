"""How often a CLAP model puts the right caption above each kind of wrong one, and audio above the same with a
background, on held-out scenes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, ClapModel, PreTrainedTokenizerFast

from tangoflux.miniature_training.clap import audio_embeddings, text_embeddings, tokenise
from tangoflux.miniature_training.data import augment
from tangoflux.model.log_mel import LogMel, LogMelConfig
from tangoflux.seeding import derive_seed, seeded_generator
from tangoflux.soundworld.background import add_background
from tangoflux.soundworld.captions import Corruption, all_corruptions, caption, corrupt
from tangoflux.soundworld.prompt_kinds import combination
from tangoflux.soundworld.scenes import Scene, Split, random_scene, render

WRONG: dict[Corruption, str] = {
    "replace": "right caption above one with an event replaced",
    "drop": "right caption above one without an event",
    "add": "right caption above one with an event added",
    "swap": "right caption above a wrong order",
    "count": "right caption above a wrong count",
    "relation": "right caption above a wrong overlap",
}
"""What must win, by what is wrong with the other caption."""

BACKGROUND = "audio above it with an unnamed background"

_CHUNK = 32


class Preference(NamedTuple):
    """Whether a scene's right side won, and what makes scenes alike, see ``combination``."""

    won: bool
    alike: str


class HeldoutScenes(NamedTuple):
    """n scenes with log-mel frames (n, 251, 64) as they are, and (n, 251, 64) with a background that is not named."""

    scenes: list[Scene]
    clean: Tensor
    noisy: Tensor


def heldout_scenes(split: Split, n: int, seed: int) -> HeldoutScenes:
    """Draws and renders the first `n` scenes of a split for a seed."""
    rng, log_mel = np.random.default_rng([seed, 3]), LogMel(LogMelConfig())
    scenes: list[Scene] = []
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for _ in range(n):
        scene = random_scene(rng, split)
        waveform = render(scene, rng)
        scenes.append(scene)
        for side, version in zip(sides, (waveform, add_background(waveform, rng, share=1.0)), strict=True):
            side.append(log_mel(log_mel.fit(torch.from_numpy(version))[None])[0])
    return HeldoutScenes(scenes, torch.stack(sides[0]), torch.stack(sides[1]))


def load_clap(directory: Path) -> tuple[ClapModel, PreTrainedTokenizerFast]:
    """A model that ``train_clap`` wrote, in float32 and evaluation mode, with its tokenizer."""
    model = ClapModel.from_pretrained(directory, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(directory)


@torch.no_grad()
def preferences(
    model: ClapModel, tokenizer: PreTrainedTokenizerFast, heldout: HeldoutScenes, augmented: bool
) -> dict[str, list[Preference]]:
    """Of each kind of wrong side the preferences on held-out scenes; ``augmented`` features are changed first."""
    rng = np.random.default_rng(derive_seed("compositions"))
    found: dict[str, list[Preference]] = defaultdict(list)
    for start in range(0, len(heldout.scenes), _CHUNK):
        scenes = heldout.scenes[start : start + _CHUNK]
        clean, noisy = _embeddings(model, heldout, start, augmented)
        for index, scene in enumerate(scenes):
            ways = all_corruptions(scene.content)
            wrong = [corrupt(scene.content, way, rng) for way in ways]
            texts = [caption(content, rng) for content in (scene.content, *wrong)]
            text, alike = text_embeddings(model, tokenise(tokenizer, texts)), combination(texts[0])
            right, *others = (text @ clean[index]).tolist()
            for way, score in zip(ways, others, strict=True):
                found[WRONG[way]].append(Preference(right > score, alike))
            found[BACKGROUND].append(Preference(right > float(text[0] @ noisy[index]), alike))
    return found


def _embeddings(model: ClapModel, heldout: HeldoutScenes, start: int, augmented: bool) -> list[Tensor]:
    """Unit vectors (B, d) of a chunk's scenes, and of the same with a background; both are changed alike."""
    rows, mel = slice(start, start + _CHUNK), LogMelConfig()
    lengths = torch.tensor([scene.duration_s for scene in heldout.scenes[rows]])
    frames = (lengths * mel.sample_rate_hz / mel.hop).round().long()
    sides = [heldout.clean[rows], heldout.noisy[rows]]
    if augmented:
        seed = derive_seed("compositions", start)
        sides = [augment(side, frames, seeded_generator(seed)) for side in sides]
    return [audio_embeddings(model, side) for side in sides]

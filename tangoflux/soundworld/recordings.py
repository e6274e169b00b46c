"""Recordings of the sound world as files with a manifest, with the faults of recordings and captions from the web.

Three quarters have a background that no caption names, and a quarter of the captions have a mistake.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from tangoflux.soundworld.background import add_background
from tangoflux.soundworld.captions import noisy_caption
from tangoflux.soundworld.events import SAMPLE_RATE_HZ
from tangoflux.soundworld.scenes import Scene, random_scene, render

MANIFEST = "manifest.jsonl"

BACKGROUND_SHARE = 0.75
"""Share of the recordings with a background that no caption names."""

CAPTION_NOISE = 0.25
"""Share of the captions with one mistake."""

CAPTIONS = 8
"""Captions of a recording."""

Log = Callable[[str], None]


def write_recordings(directory: Path, clips: int, seed: int, log: Log = print) -> Path:
    """Writes FLAC files of training scenes and then their manifest; does nothing if the manifest exists.

    Args:
        clips: number of recordings; a recording depends on the seed and its index only.
        log: receives progress lines.

    Returns:
        the manifest, for ``jobs/prepare.py``.
    """
    manifest = directory / MANIFEST
    if manifest.exists():
        return manifest
    (directory / "audio").mkdir(parents=True, exist_ok=True)
    rows: list[str] = []
    for index in range(clips):
        rng = np.random.default_rng([seed, index])
        scene = random_scene(rng, "train")
        rows.append(json.dumps(_record(directory, f"audio/{index:06d}.flac", scene, rng)))
        if index % 1000 == 999:
            log(f"recorded {index + 1} of {clips} scenes")
    unfinished = manifest.with_suffix(".tmp")
    unfinished.write_text("\n".join(rows) + "\n", encoding="utf-8")
    unfinished.replace(manifest)
    return manifest


def _record(directory: Path, name: str, scene: Scene, rng: np.random.Generator) -> dict[str, object]:
    """Writes a scene and returns its row of the manifest."""
    waveform = add_background(render(scene, rng), rng, BACKGROUND_SHARE)
    soundfile.write(directory / name, waveform, SAMPLE_RATE_HZ, subtype="PCM_16")
    captions = [noisy_caption(scene, rng, CAPTION_NOISE) for _ in range(CAPTIONS)]
    return {"audio": name, "captions": captions}

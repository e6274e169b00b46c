"""Recordings of the sound world as files with a manifest, as one would have them of the real one.

python -m tangoflux.soundworld.recordings --output recordings --clips 400

Three quarters of them have a background that no caption names, and a quarter of the captions a mistake, as recordings
and captions from the web have.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from tangoflux.cli import run_main
from tangoflux.errors import ConfigError
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
    """Writes FLAC files of training scenes and then their manifest; what is there already is left as it is.

    Args:
        clips: their number; a recording depends on the seed and its place alone.
        log: takes a progress line now and then.

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
    """Writes a scene; returns its row of the manifest."""
    waveform = add_background(render(scene, rng), rng, BACKGROUND_SHARE)
    soundfile.write(directory / name, waveform, SAMPLE_RATE_HZ, subtype="PCM_16")
    captions = [noisy_caption(scene, rng, CAPTION_NOISE) for _ in range(CAPTIONS)]
    return {"audio": name, "captions": captions}


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line and writes the recordings."""
    parser = argparse.ArgumentParser(
        prog="python -m tangoflux.soundworld.recordings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="directory that gets the files and the manifest")
    parser.add_argument("--clips", type=int, default=400, help="recordings (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: 0)")
    options = parser.parse_args(argv)
    if options.clips < 1 or options.seed < 0:
        raise ConfigError(f"--clips {options.clips} must be at least 1, and --seed {options.seed} at least 0")
    if options.output.exists() and any(options.output.iterdir()):
        raise ConfigError(f"--output {options.output} is not empty; choose another directory")
    print(write_recordings(options.output, options.clips, options.seed))
    return 0


if __name__ == "__main__":
    run_main(main)

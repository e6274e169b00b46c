"""Training of the event detector."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from operator import eq
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tangoflux.miniature_training.data import Log, RenderedScenes, augment, rendered_scenes
from tangoflux.miniature_training.loop import LoopConfig, run_loop
from tangoflux.seeding import derive_seed, seeded_generator
from tangoflux.soundworld.detector import EventDetector
from tangoflux.soundworld.events import KINDS


@dataclass(frozen=True)
class DetectorTraining:
    """The training's sizes.

    The scenes are of all combinations: a detector that had never heard some would take them for others, and the
    figures of a policy on them would be too low. The split concerns what the policy learns from.
    """

    seed: int = 301
    scenes: int = 12_000
    heldout_scenes: int = 600
    batch_size: int = 64
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=900, learning_rate=2e-3))


def train_detector(
    output_dir: Path, cache_dir: Path, log: Log, steps: int | None = None, config: DetectorTraining | None = None
) -> dict[str, float]:
    """Train the detector on one thread and write it to `output_dir`.

    Args:
        output_dir: gets `config.json`, `model.safetensors` and `quality.json`.
        cache_dir: keeps the rendered scenes and the state from which an interrupted training resumes.
        log: takes a progress line.
        steps: instead of the configured number.
        config: instead of the default.

    Returns:
        The held-out figures that are in `quality.json`.
    """
    config = config or DetectorTraining()
    torch.set_num_threads(1)
    scenes = rendered_scenes("all", config.scenes, config.seed, cache_dir, log)
    heldout = rendered_scenes("dev", config.heldout_scenes, config.seed, cache_dir, log)
    torch.manual_seed(config.seed)
    detector = EventDetector()

    def loss_of_step(step: int) -> Tensor:
        rows = np.random.default_rng([config.seed, step]).integers(config.scenes, size=config.batch_size)
        _, log_mel, frames = scenes.select(rows)
        heard = torch.from_numpy(scenes.activity[rows]).float()
        features = augment(log_mel, frames, seeded_generator(config.seed, step))
        return len(KINDS) * nn.functional.binary_cross_entropy_with_logits(detector(features), heard)

    loop = replace(config.loop, steps=steps or config.loop.steps)
    run_loop(detector, loss_of_step, loop, cache_dir / "detector.pt", log)
    detector.save(output_dir)
    quality = detector_quality(EventDetector.load(output_dir), heldout)
    (output_dir / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")
    log(f"detector: {quality}")
    return quality


@torch.no_grad()
def detector_quality(detector: EventDetector, heldout: RenderedScenes) -> dict[str, float]:
    """The shares of scenes that are read without any mistake, as they are and augmented."""
    n = len(heldout.scenes)
    exact, exact_augmented = 0, 0
    for start in range(0, n, 50):
        scenes, log_mel, frames = heldout.select(np.arange(start, min(n, start + 50)))
        contents = [scene.content for scene in scenes]
        changed = augment(log_mel, frames, seeded_generator(derive_seed("detector quality", start)))
        exact += sum(map(eq, detector.read(log_mel), contents))
        exact_augmented += sum(map(eq, detector.read(changed), contents))
    return {"heldout_exact": exact / n, "heldout_exact_augmented": exact_augmented / n, "heldout_scenes": n}

"""Training of the grounder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tangoflux.miniature_training.data import Log, RenderedScenes, augment, rendered_scenes
from tangoflux.miniature_training.loop import LoopConfig, run_loop
from tangoflux.seeding import derive_seed, seeded_generator
from tangoflux.soundworld.activity import segments
from tangoflux.soundworld.aspects import ASPECTS, aspects
from tangoflux.soundworld.events import KINDS
from tangoflux.soundworld.grounder import MOST_UNITS, Grounder, Grounding, heard_units

_SPAN_WEIGHT = 10.0


@dataclass(frozen=True)
class GrounderTraining:
    """The training's sizes; seed, scenes, backgrounds and architecture are others than the event detector's."""

    seed: int = 601
    scenes: int = 16_000
    heldout_scenes: int = 600
    background_share: float = 0.5
    batch_size: int = 64
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=2400, learning_rate=1.5e-3, warmup_steps=100))


def train_grounder(
    output_dir: Path, cache_dir: Path, log: Log, steps: int | None = None, config: GrounderTraining | None = None
) -> dict[str, float]:
    """Train the grounder on one thread and write it to `output_dir`.

    Args:
        output_dir: gets `config.json`, `model.safetensors` and `quality.json`.
        cache_dir: keeps the rendered scenes and the state from which an interrupted training resumes.
        log: takes a progress line.
        steps: instead of the configured number.
        config: instead of the default.

    Returns:
        The held-out figures that are in `quality.json`.
    """
    config = config or GrounderTraining()
    torch.set_num_threads(1)
    share = config.background_share
    scenes = rendered_scenes("all", config.scenes, config.seed, cache_dir, log, share)
    heldout = rendered_scenes("dev", config.heldout_scenes, config.seed, cache_dir, log, share)
    torch.manual_seed(config.seed)
    grounder = Grounder()

    def loss_of_step(step: int) -> Tensor:
        rows = np.random.default_rng([config.seed, step]).integers(config.scenes, size=config.batch_size)
        _, log_mel, frames = scenes.select(rows)
        features = augment(log_mel, frames, seeded_generator(config.seed, step))
        return grounding_loss(grounder(features), scenes.activity[rows])

    loop = replace(config.loop, steps=steps or config.loop.steps)
    run_loop(grounder, loss_of_step, loop, cache_dir / "grounder.pt", log)
    grounder.save(output_dir)
    quality = grounder_quality(Grounder.load(output_dir), heldout)
    (output_dir / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")
    log(f"grounder: {quality}")
    return quality


def grounding_loss(grounding: Grounding, activity: NDArray[np.bool_]) -> Tensor:
    """Cross-entropies of presence and count, and the distance of the spans, of activity (B, 126, kinds)."""
    active = torch.from_numpy(activity)
    present = active.any(dim=1)
    edges = F.pad(active.float(), (0, 0, 1, 0)).diff(dim=1)
    counts = (edges > 0).sum(dim=1).clamp(1, MOST_UNITS) - 1
    length = active.shape[1]
    first = active.float().argmax(dim=1) / length
    last = 1 - active.flip(1).float().argmax(dim=1) / length
    presence = len(KINDS) * F.binary_cross_entropy_with_logits(grounding.present, present.float())
    count = F.cross_entropy(grounding.counts[present], counts[present])
    span = (grounding.spans[present] - torch.stack((first, last), dim=-1)[present]).abs().mean()
    return presence + count + _SPAN_WEIGHT * span


@torch.no_grad()
def grounder_quality(grounder: nn.Module, heldout: RenderedScenes) -> dict[str, float]:
    """For each aspect the share of held-out scenes in which it is told as it is, of augmented features."""
    n = len(heldout.scenes)
    right: dict[str, list[bool]] = {name: [] for name in ASPECTS}
    for start in range(0, n, 50):
        rows = np.arange(start, min(n, start + 50))
        scenes, log_mel, frames = heldout.select(rows)
        grounding = grounder(augment(log_mel, frames, seeded_generator(derive_seed("grounder quality", start))))
        for index, scene in enumerate(scenes):
            true = aspects(scene.content, segments(heldout.activity[rows[index]].astype(np.float32)))
            told = aspects(scene.content, heard_units(grounding, index))
            for name, values in right.items():
                if not np.isnan(true[name]):
                    values.append(true[name] == told[name])
    figures = {f"heldout_{name}": float(np.mean(values)) for name, values in right.items()}
    return {**figures, "heldout_scenes": n}

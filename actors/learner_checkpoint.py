"""The state of a training on disk: whoever goes on from it takes the same steps as without an interruption.

    step-00000200/
      weights.safetensors             float32 masters of what is trained
      average.safetensors             their moving average, where one is kept
      optimizer-00000.safetensors     AdamW's moments, each rank its part or rank 0 all of them
      state.json                      written last: the step, what was measured before, and all events so far

The order of the data and all noise follow from seed, epoch and step, so that no generator has a state.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from actors.files import whole_file
from tangoflux.checkpoint import read_json, read_weights

STATE = "state.json"


def latest_checkpoint(directory: Path) -> Path | None:
    """The checkpoint of the highest step that is whole; None without one."""
    found = [path.parent for path in directory.glob(f"step-*/{STATE}") if re.fullmatch(r"step-\d+", path.parent.name)]
    return max(found, default=None)


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        step: optimiser steps that are done.
        before: what was measured on the policy at the training's start.
        events: of all steps so far.
    """

    step: int = 0
    before: dict[str, Any] = field(default_factory=dict[str, Any])
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def checkpoint_progress(checkpoint: Path | None) -> Progress:
    """What is done at a checkpoint; nothing without one."""
    return Progress(**read_json(checkpoint / STATE)) if checkpoint else Progress()


def checkpoint_weights(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The masters and their average (empty where none was kept)."""
    average = checkpoint / "average.safetensors"
    return read_weights(checkpoint / "weights.safetensors"), read_weights(average) if average.exists() else {}


def checkpoint_moments(checkpoint: Path) -> list[dict[str, Tensor]]:
    """AdamW's moments as ``learner_moments.all_moments`` takes them, the parts in order."""
    return [read_weights(file) for file in sorted(checkpoint.glob("optimizer-*.safetensors"))]


def save_checkpoint(
    directory: Path,
    progress: Progress,
    rank: int,
    moments: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
) -> None:
    """Writes a checkpoint and then removes those before it. Every rank calls it.

    Args:
        moments: this rank's part; empty where another rank writes it.
        weights, average: on rank 0 all of them, elsewhere empty.

    Raises:
        ResourceError: the disk is full or the directory cannot be written.
    """
    target = directory / f"step-{progress.step:08d}"
    target.mkdir(parents=True, exist_ok=True)
    if moments:
        _save(moments, target / f"optimizer-{rank:05d}.safetensors")
    if average:
        _save(average, target / "average.safetensors")
    if weights:
        _save(weights, target / "weights.safetensors")
    dist.barrier()
    if weights:
        with whole_file(target / STATE) as temporary:
            temporary.write_text(json.dumps(asdict(progress)) + "\n")
        for old in directory.glob("step-*"):
            if old.name < target.name:
                shutil.rmtree(old)


def _save(tensors: Mapping[str, Tensor], file: Path) -> None:
    with whole_file(file) as temporary:
        save_file(dict(tensors), temporary)

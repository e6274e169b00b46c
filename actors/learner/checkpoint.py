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
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from actors.storage.atomic import atomic_write
from actors.storage.object_store import ObjectStorePath
from actors.storage.paths import local_file, remove_below
from tangoflux.model.checkpoint import read_json, read_weights

STATE = "state.json"


def latest_checkpoint(directory: Path | ObjectStorePath) -> Path | ObjectStorePath | None:
    """The checkpoint of the highest step that is whole; None without one."""
    last = max((name for name in _names(directory) if re.fullmatch(rf"step-\d+/{STATE}", name)), default=None)
    return directory / last.partition("/")[0] if last else None


@contextmanager
def local_checkpoint(checkpoint: Path | ObjectStorePath | None) -> Generator[Path | None]:
    """A checkpoint as a local directory as long as the block lasts.

    Raises:
        ResourceError: the store does not answer, or the disk is full.
    """
    if not isinstance(checkpoint, ObjectStorePath):
        yield checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="tangoflux-") as directory:
        for name in checkpoint.sizes():
            (checkpoint / name).fetch(Path(directory) / name)
        yield Path(directory)


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        step: optimiser steps that are done.
        initial_metrics: what was measured on the policy at the training's start.
        events: of all steps so far.
    """

    step: int = 0
    initial_metrics: dict[str, Any] = field(default_factory=dict[str, Any])
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def checkpoint_progress(checkpoint: Path | ObjectStorePath | None) -> Progress:
    """What is done at a checkpoint; nothing without one."""
    if checkpoint is None:
        return Progress()
    with local_file(checkpoint / STATE) as file:
        return Progress(**read_json(file))


def checkpoint_weights(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The masters and their average (empty where none was kept)."""
    average = checkpoint / "average.safetensors"
    return read_weights(checkpoint / "weights.safetensors"), read_weights(average) if average.exists() else {}


def checkpoint_moments(checkpoint: Path) -> list[dict[str, Tensor]]:
    """AdamW's moments as ``learner_moments.all_moments`` takes them, the parts in order."""
    return [read_weights(file) for file in sorted(checkpoint.glob("optimizer-*.safetensors"))]


def load_tensors(file: Path | ObjectStorePath) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: it is not there, or truncated.
        ResourceError: the store does not answer.
    """
    with local_file(file) as local:
        return read_weights(local)


def save_checkpoint(
    directory: Path | ObjectStorePath,
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
        ResourceError: the disk is full, or the directory or store cannot be written.
    """
    target = directory / f"step-{progress.step:08d}"
    if moments:
        _save(moments, target / f"optimizer-{rank:05d}.safetensors")
    if average:
        _save(average, target / "average.safetensors")
    if weights:
        _save(weights, target / "weights.safetensors")
    dist.barrier()
    if weights:
        with atomic_write(target / STATE) as temporary:
            temporary.write_text(json.dumps(asdict(progress)) + "\n")
        steps = {name.partition("/")[0] for name in _names(directory) if name.startswith("step-")}
        for old in sorted(steps):
            if old < target.name:
                remove_below(directory / old)


def _save(tensors: Mapping[str, Tensor], file: Path | ObjectStorePath) -> None:
    with atomic_write(file) as temporary:
        save_file(dict(tensors), temporary)


def _names(directory: Path | ObjectStorePath) -> list[str]:
    if isinstance(directory, ObjectStorePath):
        return list(directory.sizes())
    return [path.relative_to(directory).as_posix() for path in directory.glob("step-*/*")]

"""The stored state of a training, from which it resumes with the same steps as without an interruption.

    step-00000200/
      weights.safetensors             float32 masters of the trained weights
      average.safetensors             their moving average, if there is one
      optimizer-00000.safetensors     AdamW's moments, a part from each rank or all of them from rank 0
      state.json                      written last: the step, the initial metrics, and all events so far

The order of the data and all noise follow from seed, epoch and step, so that no generator state is stored.
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
from torch import Tensor

from actors.storage.atomic import atomic_write
from actors.storage.object_store import Location, ObjectStorePath
from actors.storage.paths import local_file, remove_below
from tangoflux.model.checkpoint import read_json, read_weights, write_weights

STATE = "state.json"


def latest_checkpoint(directory: Location) -> Location | None:
    """The complete checkpoint of the highest step; None without one."""
    last = max((name for name in _names(directory) if re.fullmatch(rf"step-\d+/{STATE}", name)), default=None)
    return directory / last.partition("/")[0] if last else None


@contextmanager
def local_checkpoint(checkpoint: Location | None) -> Generator[Path | None]:
    """A checkpoint as a local directory until the block ends.

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
    """How far a training has come.

    Attributes:
        step: optimiser steps done.
        initial_metrics: metrics of the policy at the training's start.
        events: of all steps so far.
    """

    step: int = 0
    initial_metrics: dict[str, Any] = field(default_factory=dict[str, Any])
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def checkpoint_progress(checkpoint: Location | None) -> Progress:
    """The progress that a checkpoint stores; that of a new training without one."""
    if checkpoint is None:
        return Progress()
    with local_file(checkpoint / STATE) as file:
        return Progress(**read_json(file))


def checkpoint_weights(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The master weights and their average, which is empty if there is none."""
    average = checkpoint / "average.safetensors"
    return read_weights(checkpoint / "weights.safetensors"), read_weights(average) if average.exists() else {}


def checkpoint_moments(checkpoint: Path) -> list[dict[str, Tensor]]:
    """AdamW's moments for ``moments.set_moments``, the parts in the order of the ranks."""
    return [read_weights(file) for file in sorted(checkpoint.glob("optimizer-*.safetensors"))]


def load_tensors(file: Location) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: the file is missing or truncated.
        ResourceError: the store does not answer.
    """
    with local_file(file) as local:
        return read_weights(local)


def save_checkpoint(
    directory: Location,
    progress: Progress,
    rank: int,
    moments: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
) -> None:
    """Writes a checkpoint, then removes the earlier ones. Every rank calls it.

    Args:
        moments: this rank's part; empty if another rank writes it.
        weights, average: complete on rank 0, empty on the others.

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


def _save(tensors: Mapping[str, Tensor], file: Location) -> None:
    with atomic_write(file) as temporary:
        write_weights(tensors, temporary)


def _names(directory: Location) -> list[str]:
    if isinstance(directory, ObjectStorePath):
        return list(directory.sizes())
    return [path.relative_to(directory).as_posix() for path in directory.glob("step-*/*")]

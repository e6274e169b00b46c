from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actors.learner.checkpoint import (
    Progress,
    checkpoint_moments,
    checkpoint_progress,
    checkpoint_weights,
    latest_checkpoint,
    local_checkpoint,
    save_checkpoint,
)
from actors.storage.object_store import ObjectStorePath
from tangoflux.errors import ResourceError
from tests.object_store import Fault, Proxy


def save(directory: Path | ObjectStorePath, step: int) -> None:
    tensors = {"a": torch.full((3,), float(step))}
    save_checkpoint(directory, Progress(step, {"loss": 1.0}), 0, tensors, tensors, tensors)


@pytest.mark.parametrize("where", ["disk", "store"])
def test_the_last_checkpoint_is_kept_on_a_disk_and_in_a_store_alike(
    where: str, bucket_dir: ObjectStorePath, tmp_path: Path, process_group: None
) -> None:
    directory = tmp_path if where == "disk" else bucket_dir
    assert latest_checkpoint(directory) is None
    for step in (9, 10):
        save(directory, step)
    latest = latest_checkpoint(directory)
    assert latest == directory / "step-00000010"
    assert checkpoint_progress(latest) == Progress(10, {"loss": 1.0})
    assert latest_checkpoint(directory / "other") is None
    with local_checkpoint(latest) as checkpoint:
        assert checkpoint
        weights, average = checkpoint_weights(checkpoint)
        assert [tensors["a"][0].item() for tensors in (weights, average, *checkpoint_moments(checkpoint))] == [10] * 3


def test_a_checkpoint_that_was_not_put_whole_does_not_count(
    bucket_dir: ObjectStorePath, proxy: Proxy, process_group: None
) -> None:
    save(bucket_dir, 9)
    faults: list[Fault | None] = [None, None, *["error" for _ in range(30)]]
    proxy.spoil(*faults, methods=("PUT", "POST"))
    with pytest.raises(ResourceError, match="step-00000010"):
        save(bucket_dir, 10)
    proxy.spoil()
    assert latest_checkpoint(bucket_dir) == bucket_dir / "step-00000009"

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tangoflux.errors import CheckpointError
from tangoflux.model.adapter_files import write_adapter
from tangoflux.model.checkpoint import read_json, read_shapes, read_weights, write_weights
from tangoflux.rewards.laion_checkpoint import read_laion_checkpoint
from tests.tiny import LORA, tiny_model

NOBODY = 65534


@pytest.fixture(params=["file", "directory"])
def unreadable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file of weights that may not be read, or is in a directory that may not be entered."""
    file = tmp_path / "model" / "weights"
    file.parent.mkdir()
    write_weights({"a": torch.ones(1)}, file)
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    (file if request.param == "file" else file.parent).chmod(0)
    user = os.geteuid()
    if user == 0:  # permissions do not apply to root
        os.seteuid(NOBODY)
    yield file
    os.seteuid(user)
    file.parent.chmod(0o700)


@pytest.fixture(params=[0o022, 0o002, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_every_file_that_is_written_has_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "policy")
    write_weights({"a": torch.ones(1)}, tmp_path / "weights.safetensors")
    write_adapter(tmp_path, "policy", LORA, {"fc.0.lora_A": torch.ones(1), "fc.0.weight": torch.ones(1)})
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.rglob("*") if file.is_file()}
    assert len(modes) >= 9 and set(modes.values()) == {0o666 & ~umask}, modes


def test_a_disk_that_is_full_is_no_damaged_file(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{tmp_path}/weights'"):
            write_weights({"a": torch.ones(1000)}, tmp_path / "weights")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("read", [read_json, read_shapes, read_weights, read_laion_checkpoint])
def test_a_file_without_permission_is_not_called_damaged_or_missing(
    unreadable: Path, read: Callable[[Path], object]
) -> None:
    with pytest.raises(CheckpointError, match=f"^{unreadable} cannot be read: no permission"):
        read(unreadable)

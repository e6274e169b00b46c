from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from actors.storage.atomic import atomic_directory, atomic_write
from tangoflux.errors import DataError, ResourceError


def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.name.startswith("."), "readers of the directory do not take it for a file of their own"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("figures.json", "new")]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("old")
    with pytest.raises(DataError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise DataError("no")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("figures.json", "old")]


def test_a_directory_appears_with_all_its_files_or_not_at_all(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "v1") as temporary:
        (temporary / "part").mkdir()
        (temporary / "part" / "weights").write_text("w")
        assert not (tmp_path / "v1").exists()
    assert (tmp_path / "v1" / "part" / "weights").read_text() == "w"
    with pytest.raises(DataError), atomic_directory(tmp_path / "v2") as temporary:
        (temporary / "weights").write_text("half")
        raise DataError("no")
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]


def test_errors_of_the_disk_name_the_file_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "v1" / "weights"
    expected = r"v1/weights cannot be written: No space left.*GB free\); make room"
    with pytest.raises(ResourceError, match=expected), atomic_write(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

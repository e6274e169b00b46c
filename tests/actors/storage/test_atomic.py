from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from actors.storage.atomic import atomic_directory, atomic_write, explain_disk_errors
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


@pytest.mark.parametrize(
    "name", ["a" * 255, "\u6f22" * 85, "\U0001f436" * 63 + "abc", "a b\n.flac", "\udcff.json", ".hidden", "-"]
)
def test_every_name_that_a_file_may_have_can_be_written(tmp_path: Path, name: str) -> None:
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_text("whole")
        assert len(os.fsencode(temporary.name)) < 32
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "whole")]
    (tmp_path / name).unlink()
    with atomic_directory(tmp_path / name) as temporary:
        (temporary / "part").touch()
    assert [part.name for part in (tmp_path / name).iterdir()] == ["part"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("name", ["v1/weights", "weights", ".", ".."])
def test_a_full_disk_is_told_with_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = rf"{name} cannot be written: {os.strerror(code)} \(.* GB free\); make room or choose another"
    with pytest.raises(ResourceError, match=expected), explain_disk_errors(Path(name)):
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EACCES, "may not write there"),
        (errno.EPERM, "may not write there"),
        (errno.EROFS, "choose a place"),
        (errno.EEXIST, "is in the way"),
        (errno.ENOTDIR, "part of the path is a file"),
        (errno.EISDIR, "a directory has this name"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.ELOOP, "circle"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "fs.file-max"),
        (errno.EBUSY, "mount point"),
        (errno.EIO, ""),
    ],
)
def test_other_errors_of_the_disk_do_not_speak_of_room(tmp_path: Path, code: int, advice: str) -> None:
    path = tmp_path / "weights"
    with pytest.raises(ResourceError) as caught, atomic_write(path):
        raise OSError(code, os.strerror(code))
    said = str(caught.value)
    assert said.startswith(f"{path} cannot be written: {os.strerror(code)}") and advice in said
    assert "room" not in said and "GB" not in said and "resume" not in said


def test_what_is_really_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "far")
    (tmp_path / "dir").mkdir()
    for name, said in (
        ("file/a", "file is in the way"),
        ("dir", "a directory has this name"),
        ("b" * 256, "shorter"),
    ):
        with pytest.raises(ResourceError, match=said), atomic_write(tmp_path / name) as temporary:
            temporary.touch()
    with (
        pytest.raises(ResourceError, match=r"link/a cannot be written: File exists; .*link is in the way"),
        atomic_write(tmp_path / "link" / "a"),
    ):
        pass


def test_a_source_that_cannot_be_read_is_not_mistaken_for_the_target(tmp_path: Path) -> None:
    source = tmp_path / "source" / "vae.safetensors"
    with (
        pytest.raises(ResourceError, match=f"^{source} cannot be used: Permission"),
        atomic_write(tmp_path / "out" / "a"),
    ):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(source))

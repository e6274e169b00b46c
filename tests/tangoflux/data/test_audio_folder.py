from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tangoflux.data.audio_folder import READABLE, UNREADABLE, AudioFiles
from tangoflux.errors import ConfigError, DataError


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize("suffix", [*READABLE, ".WAV", ".Aiff", ".FLAC"])
def test_every_format_that_can_be_read_is_found(tmp_path: Path, suffix: str) -> None:
    make(tmp_path, f"sub/Yabc{suffix}", "Yabc.m4a", "Yabc.json", "Yabc.txt")
    assert AudioFiles(str(tmp_path)).find(["x", "Yabc"]) == (f"sub/Yabc{suffix}", None)


@pytest.mark.parametrize("suffix", [*UNREADABLE, ".M4A", ".Mp4"])
def test_other_formats_are_told_with_the_way_out(tmp_path: Path, suffix: str) -> None:
    name, problem = AudioFiles(str(make(tmp_path, f"sub/Yabc{suffix}"))).find(["x", "Yabc"])
    assert name == f"sub/Yabc{suffix}"
    assert problem == ("other format", f"found as {suffix}, convert it to .flac or .wav: 'sub/Yabc{suffix}'")


@pytest.mark.parametrize("name", ["Yabc.part", "Yabc.wav.part", "Yabc.m4a.ytdl", "._Yabc.wav", ".sub/Yabc.wav", "Yabc"])
def test_what_is_no_audio_is_not_found(tmp_path: Path, name: str) -> None:
    assert AudioFiles(str(make(tmp_path, name))).find(["Yabc", "abc"]) == ("Yabc.wav", None)


def test_a_pipe_a_socket_and_a_link_that_leads_nowhere_are_no_audio(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "Yabc.wav")
    (tmp_path / "Ydef.wav").symlink_to("missing.wav")
    (tmp_path / "Yghi.wav").symlink_to("Yghi.wav")
    (tmp_path / "up").symlink_to("down")
    (tmp_path / "down").symlink_to("up")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "Yjkl.wav"))
        files = AudioFiles(str(tmp_path))
    for name in ("Yabc", "Ydef", "Yghi", "Yjkl"):
        assert files.find([name]) == (f"{name}.wav", None)


@pytest.mark.parametrize(
    "links",
    [
        {"audio/up": ".."},
        {"audio/up": "..", "audio/up2": ".."},
        {"audio/self": ".", "audio/a/self": ".", "audio/a/up": "..", "audio/a/up2": "../.."},
        {"audio/a/b": "../c", "audio/c/d": "../a"},
        {"audio/root": "/"},
        {"audio/0": "a", "audio/1": "a", "audio/z": "a"},
        {"audio/0.wav": "a/Yabc.wav", "audio/b/Yabc.wav": "../a/Yabc.wav"},
        {"link": "audio"},
    ],
)
def test_each_directory_is_listed_once_whatever_the_links(tmp_path: Path, links: dict[str, str]) -> None:
    make(tmp_path, "audio/a/Yabc.wav", "audio/c/Ydef.wav", "audio/b/x.wav")
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)
    files = AudioFiles(str(tmp_path / ("link" if "link" in links else "audio")))
    assert files.find(["Yabc"]) == ("a/Yabc.wav", None)
    assert files.find(["Ydef"]) == ("c/Ydef.wav", None)


def test_a_linked_directory_elsewhere_is_followed(tmp_path: Path) -> None:
    make(tmp_path, "disk/train/Yabc.wav", "audio/x.wav")
    (tmp_path / "audio" / "more").symlink_to(tmp_path / "disk")
    assert AudioFiles(str(tmp_path / "audio")).find(["Yabc"]) == ("more/train/Yabc.wav", None)


def test_two_files_of_a_name_are_refused(tmp_path: Path) -> None:
    files = AudioFiles(str(make(tmp_path, "test/Yabc.wav", "train/Yabc.flac")))
    with pytest.raises(DataError, match=r"has test/Yabc.wav and train/Yabc.flac, which may both be Yabc"):
        files.find(["Yabc"])


def test_names_that_are_not_utf8_are_told_where_they_matter(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    make(tmp_path, f"{odd}.wav", f"{odd}/Yabc.wav", "Ydef.wav")
    files = AudioFiles(str(tmp_path))
    assert files.find(["Ydef"]) == ("Ydef.wav", None)
    name, problem = files.find(["Yabc"])
    assert name == "Yabc.wav" and problem
    assert problem[0] == "unreadable name" and "caf\\udce9/Yabc.wav" in problem[1] and problem[1].isascii()
    with pytest.raises(ConfigError, match="has a name that is not UTF-8; name a link to it"):
        AudioFiles(str(tmp_path / odd))


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A directory that may not be read."""
    make(tmp_path, "lost+found/Yabc.wav", "Ydef.wav")
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(0o755)
    (tmp_path / "lost+found").chmod(0)
    user = os.geteuid()
    if user == 0:  # permissions do not apply to root
        os.seteuid(65534)
    yield tmp_path
    os.seteuid(user)
    (tmp_path / "lost+found").chmod(0o700)


def test_a_directory_that_may_not_be_read_is_passed_over_with_a_word(
    locked: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = AudioFiles(str(locked))
    assert files.find(["Ydef"]) == ("Ydef.wav", None) and files.find(["Yabc"]) == ("Yabc.wav", None)
    assert f"{locked}/lost+found cannot be listed (Permission denied): its files count as missing" in caplog.text
    with pytest.raises(ConfigError, match=r"cannot be listed: .*Permission denied"):
        AudioFiles(str(locked / "lost+found"))


def test_a_path_that_is_too_long_to_open_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "Yabc.wav")
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert AudioFiles(str(tmp_path)).find(["Yabc"]) == ("Yabc.wav", None)


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_what_is_no_directory_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"the audio directory {tmp_path}/{name} cannot be listed"):
        AudioFiles(str(tmp_path / name))

from __future__ import annotations

from pathlib import Path

import pytest

from actors.storage.run_lock import LOCK
from jobs.options.score import ScoreJob
from jobs.stages.output_dir import check_new, check_output, open_output
from tangoflux.errors import ConfigError, ResourceError


def test_of_two_of_the_same_command_the_second_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    output = tmp_path / "scored"
    options = ScoreJob(rollouts=tmp_path, output=output)
    file = output / "config.yaml"
    with open_output(options, output, file):
        assert file.is_file()
        for attempt in (lambda: check_output(options, output, file), open_output(options, output, file).__enter__):
            with pytest.raises(ConfigError, match=r"scored is in use: process \d+ on "):
                attempt()
    assert not (output / LOCK).exists()
    check_output(options, output, file)
    with open_output(options, output, file):
        pass


def test_a_directory_with_nothing_but_a_lock_is_new(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    check_new(tmp_path)
    (tmp_path / "other").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        check_new(tmp_path)


@pytest.mark.parametrize("name", ["gone", "gone/new", "loop"])
def test_a_link_that_leads_nowhere_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "missing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ConfigError, match=rf"--output .*{name} cannot be used: the symbolic link .* leads nowhere"):
        check_output(ScoreJob(rollouts=tmp_path, output=tmp_path / name), tmp_path / name, tmp_path / name / "c")


@pytest.mark.parametrize("name", ["", ".", "sub/..", "new", "new/", "a b\nc", "é漢字", "link", "x/y/z"])
def test_every_directory_that_is_new_or_empty_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / ("empty" if name in ("", ".", "sub/..") else "run"))
    output = Path(name) if name != "sub/.." else tmp_path / "run" / ".." / "empty"
    options = ScoreJob(rollouts=tmp_path, output=output)
    for _ in range(2):
        check_output(options, output, output / "config.yaml")
        with open_output(options, output, output / "config.yaml"):
            assert (output / "config.yaml").is_file()


@pytest.mark.parametrize("name", ["a" * 256, "漢" * 86, "file", "file/new", "/proc/self/new", "/"])
def test_what_can_be_no_output_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    output = tmp_path / name
    with pytest.raises((ConfigError, ResourceError), match=r"cannot be used|cannot be written|is not empty"):
        options = ScoreJob(rollouts=tmp_path, output=output)
        check_output(options, output, output / "config.yaml")
        with open_output(options, output, output / "config.yaml"):
            pass

from __future__ import annotations

from pathlib import Path

import pytest

from actors.storage.run_lock import LOCK
from jobs.options.score import ScoreJob
from jobs.stages.output_dir import check_new, check_output, open_output
from jobs.stages.train import workspace
from tangoflux.errors import ConfigError


def test_of_two_of_the_same_command_the_second_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    output = tmp_path / "scored"
    options = ScoreJob(rollouts=tmp_path, output=output)
    file = output / "config.yaml"
    with open_output(options, output, file):
        assert file.is_file()
        check_output(options, output, file)
        with pytest.raises(ConfigError, match=r"scored is in use: process \d+ on "), open_output(options, output, file):
            pass
    assert not (output / LOCK).exists()
    with open_output(options, output, file):
        pass


def test_of_two_trainings_the_second_is_refused_and_the_first_keeps_its_files(tmp_path: Path) -> None:
    output = tmp_path / "policy"
    with workspace(output) as directory:
        (directory / "steps.jsonl").write_text("{}\n")
        with pytest.raises(ConfigError, match=r"policy\.training is in use"), workspace(output):
            pass
        assert (directory / "steps.jsonl").exists()
    assert not list(tmp_path.iterdir()), "nothing is left"


def test_what_a_killed_training_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / ".policy.training" / "work" / "steps.jsonl"
    left.parent.mkdir(parents=True)
    left.write_text("{}\n")
    with workspace(tmp_path / "policy") as directory:
        assert not list(directory.iterdir())


def test_a_directory_with_nothing_but_a_lock_is_new(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    check_new(tmp_path)
    (tmp_path / "other").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        check_new(tmp_path)

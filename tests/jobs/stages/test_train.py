"""Where jobs/train.py keeps what it computes, and how the policy gets its place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from actors.learner.settings import LearnerResult
from actors.storage.policy_files import read_state
from jobs.options.train import TrainJob
from jobs.stages.output_dir import check_output
from jobs.stages.train import CONFIG_FILE, STEPS, WORK, Inputs, publish, workspace
from tangoflux.errors import ConfigError, ResourceError
from tangoflux.pipeline import TangoFlux

CHECKPOINT = Path("checkpoints") / "0123" / "step-00000020" / "state.json"


def job(output: Path, seed: int = 0) -> TrainJob:
    return TrainJob(output=output, pairs=Path("pairs.jsonl"), seed=seed)


def trained(policy: Path, work: Path) -> LearnerResult:
    """What the learner leaves in its directory."""
    save_file({key: value + 0.5 for key, value in read_state(policy).items()}, work / "weights.safetensors")
    (work / STEPS).write_text("{}\n")
    (work / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
    (work / CHECKPOINT).write_text("{}")
    return LearnerResult(work / "weights.safetensors", {}, {}, {}, None, 4, 4, 0, 1.0)


@pytest.mark.parametrize("name", ["new", "a/b/new", "empty", "link", ".", "with space\nand line", "empty/"])
def test_the_policy_gets_into_every_kind_of_output_without_replacing_it(
    tiny_policy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    here = tmp_path / "here"
    (here / "empty").mkdir(parents=True)
    (here / "link").symlink_to(here / "empty")
    monkeypatch.chdir(here / "empty" if name == "." else here)
    output = Path(name)
    before = output.stat().st_ino if output.exists() else None
    config = job(output)
    check_output(config, output, output / WORK / CONFIG_FILE)
    with workspace(config) as work:
        publish(config, Inputs(tiny_policy_dir, [], 4, 4), trained(tiny_policy_dir, work), work)
    assert before in (None, output.stat().st_ino), "a mount point cannot be replaced"
    assert TangoFlux.from_pretrained(output).policy
    assert json.loads((output / "training.json").read_text())["steps"] == 4
    assert {path.name for path in output.iterdir() if path.name.startswith(".")} == set()


@pytest.mark.parametrize("error", [ResourceError("full"), ConfigError("diverged"), KeyboardInterrupt(), OSError()])
def test_a_training_that_fails_late_is_kept_and_the_same_command_goes_on(
    tiny_policy_dir: Path, tmp_path: Path, error: BaseException
) -> None:
    config = job(tmp_path / "new")
    work = tmp_path / "new" / WORK
    with pytest.raises(type(error)) as caught, workspace(config) as directory:
        trained(tiny_policy_dir, directory)
        raise error
    assert caught.value.__notes__[0] == f"what was computed is kept in {work}"
    assert (work / CHECKPOINT).is_file() and (work / "weights.safetensors").is_file()
    check_output(config, config.output, work / CONFIG_FILE)
    with pytest.raises(ConfigError, match="other options: seed is 0 there and 1 now; choose another --output"):
        check_output(job(config.output, seed=1), config.output, work / CONFIG_FILE)
    with workspace(config) as directory:
        publish(config, Inputs(tiny_policy_dir, [], 4, 4), trained(tiny_policy_dir, directory), directory)
    assert load_file(config.output / "tangoflux.safetensors") and not work.exists()


def test_a_training_that_was_killed_while_the_policy_was_moved_is_finished(
    tiny_policy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, rename = job(tmp_path / "new"), Path.rename
    inputs = Inputs(tiny_policy_dir, [], 4, 4)

    def failing(path: Path, target: Path) -> Path:
        if path.name == "tangoflux.safetensors":
            raise OSError(5, os.strerror(5))
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(ResourceError, match="Input/output"), workspace(config) as work:
        patch.setattr(Path, "rename", failing)
        publish(config, inputs, trained(tiny_policy_dir, work), work)
    assert (config.output / "text_encoder").is_dir() and not (config.output / "tangoflux.safetensors").exists()
    with workspace(config) as work:
        publish(config, inputs, trained(tiny_policy_dir, work), work)
    assert TangoFlux.from_pretrained(config.output).policy


def test_of_two_trainings_the_second_is_refused_and_the_first_keeps_its_files(tmp_path: Path) -> None:
    config = job(tmp_path / "policy")
    with workspace(config) as directory:
        (directory / STEPS).write_text("{}\n")
        with pytest.raises(ConfigError, match=r"policy is in use"), workspace(config):
            pass
        assert (directory / STEPS).exists()
    assert not list(tmp_path.iterdir()), "nothing is left"


def test_nothing_is_left_of_a_training_that_fails_before_it_has_computed_anything(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("mine", "new"):
        with pytest.raises(ConfigError), workspace(job(tmp_path / name)) as directory:
            (directory / STEPS).touch()
            raise ConfigError("no")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"], "the directory was the user's"

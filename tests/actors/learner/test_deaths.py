"""The learner's processes may die or hang at any moment, and the policy is the same."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from actors.learner.alignment.groups import pair_groups
from actors.learner.alignment.reading import fingerprint, read_groups
from actors.learner.checkpoint import load_tensors
from actors.learner.launch import train
from actors.learner.mailbox import EventLog
from actors.learner.objectives import make_objective
from actors.learner.rank import Rank
from actors.learner.settings import LearnerJob
from actors.pools.worker_slot import WorkerError
from actors.storage.shards import ShardWriter
from tests.actors.learner.random_groups import SETTINGS, pairs, rollouts, stored

LONG = dataclasses.replace(SETTINGS, epochs=30, checkpoint_every=4)
"""90 steps, so that there is time to kill."""


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("preferences")
    ShardWriter(directory).write(0, pairs(17))
    return directory


def alone(policy_dir: Path, output: Path, kind: type[Rank] = Rank, objective: str = "crpo", **changes: Any) -> Rank:
    """A rank in this process, of the same training or of one on groups."""
    settings = dataclasses.replace(LONG, **changes)
    data = pair_groups([pairs(17)])
    if objective != "crpo":
        settings = dataclasses.replace(settings, objective=make_objective(objective, {}))
        data = read_groups(stored(output / "rollouts", rollouts(17)), settings)
    job = LearnerJob(policy_dir, output / "weights.safetensors", output / "checkpoints", settings, 0, 1)
    output.mkdir(exist_ok=True)
    return kind(job, data, 0, torch.device("cpu"), EventLog())


class Interrupted(Rank):
    """Dies in its last step."""

    def _step(self, engine: Any, rows: list[int], key: Any, step: int, rate: float) -> dict[str, Any]:
        if step == 6:
            raise KeyboardInterrupt
        return super()._step(engine, rows, key, step, rate)


def processes(title: str) -> list[psutil.Process]:
    """Actors of this test's Ray by their process title."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if re.match(rf"ray::.*{title}", " ".join(child.cmdline()))]


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(
    ("objective", "precision", "lora_rank", "zero_stage"),
    [("crpo", "fp32", 0, 1), ("crpo", "bf16", 0, 1), ("awm", "fp32", 2, 1), ("diffusion_nft", "fp32", 0, 3)],
)
def test_an_alignment_that_was_interrupted_ends_with_the_same_policy_and_the_same_figures(
    tiny_policy_dir: Path, tmp_path: Path, objective: str, precision: str, lora_rank: int, zero_stage: int
):
    options: dict[str, Any] = {"precision": precision, "lora_rank": lora_rank, "zero_stage": zero_stage, "epochs": 2}
    options["objective"] = objective
    expected = alone(tiny_policy_dir, tmp_path / "a", **options).run()
    with pytest.raises(KeyboardInterrupt):
        alone(tiny_policy_dir, tmp_path / "b", Interrupted, **options).run()
    resumed = alone(tiny_policy_dir, tmp_path / "b", **options)
    assert resumed.progress.step == 4
    assert resumed.run() == expected
    assert [event["step"] for event in resumed.log.events] == list(range(1, 7))
    first, second = (load_tensors(tmp_path / name / "weights.safetensors") for name in "ab")
    assert all(torch.equal(second[name], first[name]) for name in first)


def test_a_checkpoint_counts_for_its_own_pairs_only(preferences: Path, tmp_path: Path):
    ShardWriter(tmp_path).write(0, pairs(17, first=1))
    assert fingerprint(ShardWriter(tmp_path)) != fingerprint(ShardWriter(preferences))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_after_the_death_of_the_rank_and_of_ray_trains_controller_the_same_policy_is_trained(
    tiny_policy_dir: Path, preferences: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    victims = ["RayTrainWorker", "TrainController"]
    steps: list[int] = []

    def on_step(event: dict[str, Any]) -> None:
        steps.append(event["step"])
        if victims and event["step"] >= 20 * (3 - len(victims)):
            [victim] = processes(victims.pop(0))
            victim.kill()

    with caplog.at_level(logging.WARNING, logger="actors.learner.launch"):
        result = train(preferences, tiny_policy_dir, tmp_path / "ray", LONG, 1, 0, on_step)
    assert (steps, result.steps, result.restarts) == (list(range(1, 91)), 90, 2)
    assert re.findall(r"resumes from step (\d+)", caplog.text)[0] != "90", "there was something left to do"
    # Not in this process: other tests' ZeRO 3 has exchanged torch's linear layer here.
    calm = train(preferences, tiny_policy_dir, tmp_path / "calm", LONG, 1, 0)
    expected, found = load_tensors(calm.weights), load_tensors(result.weights)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_ranks_that_hang_are_ended_and_the_training_goes_on(tiny_policy_dir: Path, preferences: Path, tmp_path: Path):
    stopped = False

    def on_step(event: dict[str, Any]) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            os.kill(processes("RayTrainWorker")[0].pid, signal.SIGSTOP)

    settings = dataclasses.replace(LONG, timeout_s=15.0)
    result = train(preferences, tiny_policy_dir, tmp_path, settings, 1, 0, on_step)
    assert (result.steps, result.restarts) == (90, 1)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_training_that_dies_without_getting_further_is_given_up(
    tiny_policy_dir: Path, preferences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("actors.learner.launch.MAX_RESTARTS", 0)
    settings = dataclasses.replace(LONG, checkpoint_every=1000)

    def on_step(event: dict[str, Any]) -> None:
        if event["step"] == 1:
            processes("RayTrainWorker")[0].kill()

    with pytest.raises(WorkerError, match="the learner died 1 times in a row without another checkpoint; the last: "):
        train(preferences, tiny_policy_dir, tmp_path, settings, 1, 0, on_step)

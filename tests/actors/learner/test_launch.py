"""Whole trainings on Ray, and that the number of ranks does not matter."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.learner.checkpoint import load_tensors
from actors.learner.launch import train
from actors.learner.mailbox import EventLog
from actors.learner.rank import Rank, load_data
from actors.learner.settings import LearnerJob, LearnerResult
from actors.storage.policy_store import PolicyStore
from actors.storage.shards import ShardWriter
from tangoflux.errors import DataError
from tangoflux.model.layout import load_policy, policy_weights
from tests.actors.learner.random_groups import SETTINGS, pairs, rollouts, stored, with_objective


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 pairs in two shards."""
    directory = tmp_path_factory.mktemp("preferences")
    writer = ShardWriter(directory)
    writer.write(0, pairs(10))
    writer.write(1, pairs(7, first=10))
    return directory


@pytest.fixture(scope="module")
def trained(
    ray_session: None, tiny_policy_dir: Path, preferences: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LearnerResult, list[dict[str, Any]]]:
    """A training with two ranks: its result and step events."""
    steps: list[dict[str, Any]] = []
    output, settings = tmp_path_factory.mktemp("learner"), dataclasses.replace(SETTINGS, workers=2)
    result = train(preferences, tiny_policy_dir, output, settings, iteration=1, seed=0, on_step=steps.append)
    return result, steps


@pytest.mark.ray
@pytest.mark.usefixtures("process_group")
def test_one_and_two_ranks_train_the_same_policy(
    trained: tuple[LearnerResult, list[dict[str, Any]]], tiny_policy_dir: Path, preferences: Path, tmp_path: Path
):
    weights, checkpoints = tmp_path / "weights.safetensors", tmp_path / "checkpoints"
    job = LearnerJob(tiny_policy_dir, weights, checkpoints, SETTINGS, 0, 1, data_dir=preferences)
    one = Rank(job, load_data(job), 0, torch.device("cpu"), EventLog())
    one.run()
    two, steps_of_two = trained
    for name in ("loss", "winner_loss", "loser_loss", "grad_norm", "learning_rate"):
        values = [[step[name] for step in steps] for steps in (one.log.events, steps_of_two)]
        np.testing.assert_allclose(values[0], values[1], rtol=2e-5, err_msg=name)
    # The gradients were clipped, so that equal norms are not all that was compared.
    assert min(step["grad_norm"] for step in steps_of_two) > SETTINGS.max_grad_norm
    first, second = load_tensors(weights), load_tensors(two.weights)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=2e-5, msg=name)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session", "process_group")
def test_one_and_two_ranks_learn_the_same_from_groups(tiny_policy_dir: Path, tmp_path: Path):
    stored(tmp_path / "rollouts", rollouts(10), rollouts(7, first=10))
    settings = dataclasses.replace(with_objective("dgpo", beta=10, anchor_weight=0.1), epochs=1)
    weights, data = tmp_path / "weights.safetensors", tmp_path / "rollouts"
    job = LearnerJob(tiny_policy_dir, weights, tmp_path / "checkpoints", settings, 0, 1, data_dir=data)
    one = Rank(job, load_data(job), 0, torch.device("cpu"), EventLog())
    figures = one.run()
    two_ranks = dataclasses.replace(settings, workers=2)
    steps: list[dict[str, Any]] = []
    two = train(tmp_path / "rollouts", tiny_policy_dir, tmp_path / "two", two_ranks, 1, 0, on_step=steps.append)
    for name in ("loss", "dgpo_loss", "anchor_loss", "margin", "grad_norm"):
        values = [[step[name] for step in found] for found in (one.log.events, steps)]
        np.testing.assert_allclose(values[0], values[1], rtol=2e-5, atol=1e-6, err_msg=name)
    first, second = load_tensors(job.weights), load_tensors(two.weights)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=2e-5, msg=name)
    assert figures and set(two.grad_norm) == {"dgpo", "winner", "anchor"} and two.pairs == 15
    assert two.grad_norm["anchor"]["start"] == 0 < two.grad_norm["anchor"]["end"]


@pytest.mark.ray
def test_each_step_is_reported(trained: tuple[LearnerResult, list[dict[str, Any]]]):
    result, steps = trained
    assert [step["step"] for step in steps] == list(range(1, 7)) and result.steps == 6
    assert [step["epoch"] for step in steps] == [1, 1, 1, 2, 2, 2]
    assert [step["learning_rate"] for step in steps[:3]] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert steps[0]["loss"] == pytest.approx(
        math.log(2) + SETTINGS.objective.winner_weight * steps[0]["winner_loss"], rel=1e-6
    )
    assert steps[0]["margin"] == 0 and steps[0]["implicit_accuracy"] == 0.5
    assert {step["event"] for step in steps} == {"step"} and {step["iteration"] for step in steps} == {1}


@pytest.mark.ray
def test_start_and_end_are_measured_on_the_same_pairs_and_noise(trained: tuple[LearnerResult, Any]):
    result, _ = trained
    assert result.pairs == 15
    assert result.start["margin"] == 0 and result.end["margin"] > 0
    assert result.end["implicit_accuracy"] > 0.5
    assert result.end["winner"] < result.start["winner"]
    assert result.heldout_pair_accuracy is not None and 0 <= result.heldout_pair_accuracy <= 1
    assert all(norm > 0 for term in result.grad_norm.values() for norm in term.values())


@pytest.mark.ray
def test_the_new_policy_can_be_published(trained: tuple[LearnerResult, Any], tiny_policy_dir: Path, tmp_path: Path):
    result, _ = trained
    published = PolicyStore(tmp_path).publish(1, tiny_policy_dir, load_tensors(result.weights))
    old, new = policy_weights(load_policy(tiny_policy_dir)), policy_weights(load_policy(published))
    assert all(torch.equal(new[name], old[name]) for name in new if name.startswith("text_encoder."))
    assert any(not torch.equal(new[name], old[name]) for name in new)
    assert sorted(os.listdir(str(result.weights.parent))) == ["checkpoints", "weights.safetensors"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_what_is_wrong_in_a_rank_is_said_in_its_own_line(tiny_policy_dir: Path, tmp_path: Path):
    ShardWriter(tmp_path / "preferences").write(0, pairs(2, channels=4))
    with pytest.raises(DataError, match="latents have 4 channels, the policy 8"):
        train(tmp_path / "preferences", tiny_policy_dir, tmp_path / "out", SETTINGS, iteration=1, seed=0)


def test_shards_without_a_row_are_refused_before_ranks_are_started(tiny_policy_dir: Path, tmp_path: Path):
    ShardWriter(tmp_path / "preferences").write(0, pairs(4).slice(0, 0))
    with pytest.raises(DataError, match="holds neither preference pairs nor rollouts"):
        train(tmp_path / "preferences", tiny_policy_dir, tmp_path / "out", SETTINGS, iteration=1, seed=0)
    assert not (tmp_path / "out").exists()

"""Shards of pairs and of rollouts: the groups in them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.learner.alignment.reading import count_groups, read_groups, read_pairs
from actors.storage.shards import ShardWriter
from tangoflux.data.preferences import make_pairs
from tangoflux.data.records import latents_array, latents_column
from tangoflux.errors import ConfigError, DataError
from tests.actors.learner.random_groups import KEY, SETTINGS, pairs, rollouts, stored, with_objective


def test_rollouts_are_groups_from_the_best_to_the_worst_sample(tmp_path: Path):
    table = rollouts(5)
    data = read_groups(stored(tmp_path, table.slice(0, 6), table.slice(6)), with_objective("dgpo"))
    assert data.group_ids == [f"p{index:06d}" for index in range(5)] and data.ranks == (0, 1, 2)
    rewards, latents = table["reward"].to_numpy().reshape(5, 3), latents_array(table["latents"]).reshape(5, 3, 32, 8)
    batch = data.batch([0, 3], KEY)
    assert batch.latents.shape == (3, 2, 16, 8) and batch.rewards.shape == (3, 2) and batch.has_worst
    for column, row in enumerate((0, 3)):
        order = np.argsort(-rewards[row])
        assert batch.rewards[:, column].tolist() == rewards[row, order].tolist()
        np.testing.assert_array_equal(batch.latents[:, column], latents[row, order, :16])


def test_the_best_and_the_worst_of_rollouts_are_the_pairs_of_these_rollouts(tmp_path: Path):
    table = rollouts(6)
    reward = [0.5, 0.5, 0.5, 0.1, 0.7, 0.7, 0.1, 0.1, 0.7, *table["reward"].to_pylist()[9:]]
    reward[9] = None  # a tie, two best, two worst, a failure
    table = table.set_column(table.column_names.index("reward"), "reward", [reward])
    of_rollouts = read_groups(stored(tmp_path / "rollouts", table), SETTINGS)
    of_pairs = read_groups(stored(tmp_path / "pairs", make_pairs(table)[0]), SETTINGS)
    assert of_rollouts.group_ids == of_pairs.group_ids == [f"p{index:06d}" for index in (1, 2, 4, 5)]
    first, second = of_rollouts.batch([0, 1, 2, 3], KEY), of_pairs.batch([0, 1, 2, 3], KEY)
    for name in ("latents", "noise", "sigma", "duration_s", "frame_mask"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            [rollouts(4, scored=False)],
            "0 pairs of 4 prompts; 4 dropped .*: there is nothing to train on; jobs/score.py",
        ),
        ([rollouts(4), rollouts(2, first=4, samples=2)], "groups of 2 and of 3 samples; all must have equally many"),
        ([rollouts(4, samples=1)], "0 pairs of 4 prompts; 4 tied"),
    ],
)
def test_rollouts_from_which_nothing_can_be_learned_are_refused(tables: list[Any], message: str, tmp_path: Path):
    with pytest.raises(DataError, match=message):
        count_groups(stored(tmp_path, *tables))


def test_rollouts_without_latents_and_groups_that_are_too_small_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="shard 0 has no columns latents"):
        read_groups(stored(tmp_path / "slim", rollouts(4).drop_columns(["latents"])), with_objective("dgpo"))
    with pytest.raises(ConfigError, match="--top-k 4 is more than the 3 samples of a group"):
        read_groups(stored(tmp_path / "few", rollouts(4)), with_objective("expert_iteration", top_k=4))


def _without_prompts(table: Any) -> Any:
    return table.drop_columns(["prompt"])


def _with_nan(table: Any) -> Any:
    index = table.column_names.index("chosen_latents")
    latents = latents_column([np.full((32, 8), np.nan)] * len(table), table.schema.field(index))
    return table.set_column(index, "chosen_latents", latents)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_prompts, "shard 0 has no columns prompt"),
        (_with_nan, "chosen_latents holds values that are not finite"),
    ],
)
def test_a_rank_refuses_pairs_that_cannot_be_trained_on(damage: Any, message: str, tmp_path: Path) -> None:
    ShardWriter(tmp_path).write(0, damage(pairs(4)))
    with pytest.raises(DataError, match=message):
        read_pairs(ShardWriter(tmp_path))

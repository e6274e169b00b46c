"""Groups in memory, and the batches of them."""

from __future__ import annotations

from pathlib import Path

from actors.learner.alignment.groups import pair_groups
from actors.learner.alignment.reading import read_groups
from tests.actors.learner.random_groups import KEY, pairs, rollouts, stored, with_objective


def test_several_pairs_of_a_prompt_have_noises_of_their_own():
    table = pairs(3)
    table = table.set_column(table.column_names.index("prompt_id"), "prompt_id", [["a", "b", "a"]])
    assert pair_groups([table]).group_ids == ["a", "b", "a#1"]


def test_a_batch_is_padded_to_its_longest_pair():
    batch = pair_groups([pairs(3)]).batch([0, 1], KEY)
    assert batch.latents.shape == (2, *batch.noise.shape) == (2, 2, 24, 8)
    assert batch.frame_mask.sum(dim=1).tolist() == [16, 24]
    assert not batch.latents[:, 0, 16:].any()


def test_only_latents_that_are_trained_on_or_measured_are_kept(tmp_path: Path):
    writer = stored(tmp_path, rollouts(3, samples=5))
    for name, kept in (("crpo", {0, 4}), ("expert_iteration", {0, 4}), ("awm", {0, 1, 2, 3, 4})):
        assert set(read_groups(writer, with_objective(name)).latents) == kept
    data = read_groups(writer, with_objective("expert_iteration", top_k=2))
    assert set(data.latents) == {0, 1, 4} and len(data.batch([0], KEY).latents) == 2
    assert not data.batch([0], KEY).has_worst and data.batch([0], KEY, data.pair).has_worst


def test_a_pass_has_the_samples_of_so_many_pairs_but_at_least_a_group(tmp_path: Path):
    data = read_groups(stored(tmp_path, rollouts(3, samples=5)), with_objective("dgpo"))
    assert [data.groups_per_pass(pairs_per_pass) for pairs_per_pass in (1, 2, 5, 16)] == [1, 1, 2, 6]

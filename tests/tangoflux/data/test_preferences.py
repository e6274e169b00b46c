from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tangoflux.data.preferences import (
    PairCounts,
    check_any_pairs,
    check_dropped_share,
    describe_counts,
    make_pairs,
)
from tangoflux.data.records import canonical_sha256, latents_array, preference_schema
from tangoflux.errors import DataError, RewardError
from tests.tables import default_latents, rollouts


def test_the_highest_reward_is_chosen_and_the_lowest_rejected() -> None:
    pairs, counts = make_pairs(rollouts({("p0", 0): 0.2, ("p0", 1): 0.9, ("p0", 2): -0.1}))
    (row,) = pairs.select([name for name in pairs.column_names if "latents" not in name]).to_pylist()
    assert (row["chosen_index"], row["chosen_reward"], row["chosen_seed"]) == (1, 0.9, 102)
    assert (row["rejected_index"], row["rejected_reward"], row["rejected_seed"]) == (2, -0.1, 202)
    assert (row["prompt"], row["duration_s"], row["num_frames"], row["num_steps"]) == ("caption p0", 1.5, 3, 12)
    assert counts == PairCounts(made=1)


def test_a_pair_holds_the_latents_of_its_two_samples() -> None:
    pairs, _ = make_pairs(rollouts({("p0", 0): 0.2, ("p0", 1): 0.9}))
    np.testing.assert_array_equal(latents_array(pairs["chosen_latents"])[0, :3], default_latents(("p0", 1)))
    np.testing.assert_array_equal(latents_array(pairs["rejected_latents"])[0, :3], default_latents(("p0", 0)))


def test_pairs_have_the_schema_and_the_canonical_order_whatever_the_order_of_the_rows() -> None:
    rewards = {(f"p{p}", k): float((7 * p + 3 * k) % 11) for p in (3, 0, 2) for k in (2, 0, 1)}
    table = rollouts(rewards)
    pairs, _ = make_pairs(table)
    assert pairs.schema.equals(preference_schema(4, 2))
    assert pairs["prompt_id"].to_pylist() == ["p0", "p2", "p3"]
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(len(table))))
    assert canonical_sha256(make_pairs(shuffled)[0]) == canonical_sha256(pairs)


def test_of_equal_rewards_the_lowest_sample_index_counts() -> None:
    pairs, _ = make_pairs(rollouts({("p0", k): reward for k, reward in enumerate([0.5, 0.9, 0.1, 0.9, 0.1])}))
    assert pairs["chosen_index"].to_pylist() == [1]
    assert pairs["rejected_index"].to_pylist() == [2]


def test_ties_and_margins_up_to_the_least_one_make_no_pair() -> None:
    rewards = {("p0", 0): 0.5, ("p0", 1): 0.5, ("p1", 0): 0.25, ("p1", 1): 0.5, ("p2", 0): 0.0, ("p2", 1): 0.5}
    assert make_pairs(rollouts(rewards))[1] == PairCounts(made=2, tied=1)
    pairs, counts = make_pairs(rollouts(rewards), min_margin=0.25)
    assert pairs["prompt_id"].to_pylist() == ["p2"]
    assert counts == PairCounts(made=1, tied=2)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_group_with_a_failed_sample_is_dropped_with_its_reason(value: float | None) -> None:
    rewards = {("p0", 0): 0.5, ("p0", 1): value, ("p1", 0): 0.25, ("p1", 1): 0.5}
    pairs, counts = make_pairs(rollouts(rewards, failures={("p0", 1): "no tokenizer"}))
    assert pairs["prompt_id"].to_pylist() == ["p1"]
    assert counts == PairCounts(made=1, dropped=1, reasons={"no tokenizer": 1})


def test_a_failed_reward_without_a_reason_is_dropped_all_the_same() -> None:
    assert make_pairs(rollouts({("p0", 0): 0.5, ("p0", 1): None}))[1].dropped == 1


def test_no_rollouts_make_no_pairs() -> None:
    pairs, counts = make_pairs(rollouts({("p0", 0): 0.5}).slice(0, 0))
    assert (len(pairs), counts) == (0, PairCounts())


def test_counts_add_up() -> None:
    total = PairCounts(1, 2, 3, {"a": 2, "b": 1}) + PairCounts(4, 5, 6, {"b": 6})
    assert total == PairCounts(5, 7, 9, {"a": 2, "b": 7})
    assert total.groups == 21


def test_too_many_dropped_groups_stop_the_run_and_say_why() -> None:
    counts = PairCounts(made=7, dropped=3, reasons={"ValueError: no": 2, "silence": 1})
    check_dropped_share(counts, 0.3)
    with pytest.raises(RewardError, match=r"3 of 10 groups.* share of 0.2 .*: 2 x ValueError: no; 1 x silence$"):
        check_dropped_share(counts, 0.2)


def test_a_share_that_can_no_longer_be_kept_stops_the_run_before_its_end() -> None:
    check_dropped_share(PairCounts(dropped=20), 0.2, planned_groups=100)
    with pytest.raises(RewardError, match="21 of 100 groups"):
        check_dropped_share(PairCounts(dropped=21), 0.2, planned_groups=100)


@pytest.mark.parametrize(
    ("counts", "min_margin", "words"),
    [
        (PairCounts(made=6), 0.0, "6 pairs of 6 prompts"),
        (PairCounts(made=5, tied=1), 0.0, "5 pairs of 6 prompts; 1 tied (equal rewards)"),
        (PairCounts(tied=4), 0.25, "0 pairs of 4 prompts; 4 tied (margins up to 0.25)"),
        (
            PairCounts(1, 2, 3, {"KeyError: a": 1, "silence": 2}),
            0.0,
            "1 pair of 6 prompts; 2 tied (equal rewards); 3 dropped (2 x silence; 1 x KeyError: a)",
        ),
    ],
)
def test_it_is_said_how_many_pairs_there_are_and_why_not_more(
    counts: PairCounts, min_margin: float, words: str
) -> None:
    assert describe_counts(counts, min_margin) == words


@pytest.mark.parametrize("counts", [PairCounts(tied=8), PairCounts(dropped=2, reasons={"silence": 2}), PairCounts()])
def test_without_a_pair_there_is_nothing_to_train_on(counts: PairCounts) -> None:
    with pytest.raises(DataError, match=r"^0 pairs of \d prompts.*: there is nothing to train on; start another run"):
        check_any_pairs(counts, 0.0)
    check_any_pairs(PairCounts(made=1, tied=99), 0.0)

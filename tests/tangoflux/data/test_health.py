from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tangoflux.data.health import HealthSums
from tests.tables import rollouts

ONES = np.ones((3, 2), np.float32)


def test_spread_is_the_mean_standard_deviation_within_groups_without_failures() -> None:
    rewards = {("p0", 0): 0.0, ("p0", 1): 1.0, ("p1", 0): 5.0, ("p1", 1): 5.0, ("p2", 0): 9.0, ("p2", 1): None}
    assert HealthSums.of(rollouts(rewards)).health().group_spread == pytest.approx(0.25)


def test_diversity_is_the_distance_within_groups_in_standard_deviations_of_all_latents() -> None:
    latents = {("p0", 0): ONES, ("p0", 1): -ONES, ("p1", 0): ONES, ("p1", 1): -ONES}
    assert HealthSums.of(rollouts(dict.fromkeys(latents, 0.0), latents=latents)).health().diversity == pytest.approx(
        2.0
    )
    same = {("p0", 0): ONES, ("p0", 1): ONES, ("p1", 0): -ONES, ("p1", 1): -ONES}
    assert HealthSums.of(rollouts(dict.fromkeys(same, 0.0), latents=same)).health().diversity == 0.0


def test_diversity_does_not_count_padding() -> None:
    latents = {("p0", 0): 9 * ONES, ("p0", 1): 11 * ONES}
    assert HealthSums.of(rollouts(dict.fromkeys(latents, 0.0), latents=latents)).health().diversity == pytest.approx(
        2.0
    )


def test_diversity_of_unrelated_latents_is_the_root_of_two() -> None:
    rng = np.random.default_rng(0)
    latents = {(f"p{p}", k): rng.normal(size=(3, 2)).astype(np.float32) for p in range(100) for k in range(4)}
    health = HealthSums.of(rollouts(dict.fromkeys(latents, 0.0), latents=latents)).health()
    assert health.diversity == pytest.approx(2**0.5, rel=0.06)


def test_silent_and_clipped_shares() -> None:
    quiet = rollouts({("p0", 0): 0.0}, rms=1e-4)
    loud = rollouts({("p1", 0): 0.0, ("p1", 1): 0.0, ("p1", 2): 0.0}, peak=1.0)
    health = HealthSums.of(pa.concat_tables([quiet, loud])).health()
    assert (health.silent_share, health.clipped_share) == (0.25, 0.75)


def test_shards_added_one_by_one_give_the_figures_of_all_rows() -> None:
    table = rollouts({(f"p{p}", k): p * k / 7 for p in range(5) for k in range(3)})
    shards = [HealthSums.of(table.slice(first, 3)) for first in range(0, len(table), 3)]
    whole, pieces = HealthSums.of(table).health(), sum(shards, HealthSums()).health()
    assert pieces.group_spread == pytest.approx(whole.group_spread)
    assert pieces.diversity == pytest.approx(whole.diversity)


def test_without_samples_there_are_no_figures() -> None:
    health = HealthSums().health()
    assert (health.group_spread, health.diversity, health.silent_share, health.clipped_share) == (None,) * 4

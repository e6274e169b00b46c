from __future__ import annotations

import pyarrow as pa
import pytest

from tangoflux.data.components import ComponentSums
from tangoflux.data.records import COMPONENTS


def rollouts(*components: list[dict[str, str | float | None]] | None) -> pa.Table:
    return pa.table({"reward_components": pa.array(components, COMPONENTS)})


def scored(clap: float | None, share: float | None) -> list[dict[str, str | float | None]]:
    return [{"name": "clap", "score": clap}, {"name": "share", "score": share}]


def test_each_reward_has_the_mean_of_its_own_scores() -> None:
    means = ComponentSums.of(rollouts(scored(0.25, 1.0), scored(0.75, 0.0))).means()
    assert means == {"clap": 0.5, "share": 0.5}


def test_a_rollout_without_a_score_does_not_count() -> None:
    means = ComponentSums.of(rollouts(scored(0.25, None), scored(None, None), None)).means()
    assert means == {"clap": 0.25, "share": None}


def test_sums_of_shards_add_up() -> None:
    first, second = rollouts(scored(0.1, 1.0), scored(0.2, None)), rollouts(scored(0.6, 0.5))
    together = ComponentSums.of(pa.concat_tables([first, second])).means()
    added = (ComponentSums() + ComponentSums.of(first) + ComponentSums.of(second)).means()
    assert added == pytest.approx(together) and list(added) == ["clap", "share"]
    assert ComponentSums().means() == {}

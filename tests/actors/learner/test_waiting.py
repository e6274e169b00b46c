from __future__ import annotations

from typing import Any

import pytest
import ray
from ray.util import placement_group, remove_placement_group

from actors.learner.waiting import WaitingRanks
from tests.actors.learner.settings import alignment_settings

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@ray.remote(num_cpus=2)
class Neighbour:
    """Holds all processors of the session."""


def test_room_is_made_while_the_ranks_have_no_place_and_the_shortage_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("actors.learner.waiting.LOOK_S", 0.0)
    monkeypatch.setattr("actors.learner.waiting.TELL_S", 0.0)
    neighbour: Any = Neighbour.remote()
    ray.get(neighbour.__ray_ready__.remote())
    ranks = placement_group([{"CPU": 1}])
    asked: list[int] = []
    waiting = WaitingRanks(alignment_settings(), lambda: asked.append(1))
    try:
        waiting.look()
        waiting.look()
        assert len(asked) == 2
        needed = "it needs 1 x (1 CPU), the cluster has 2 CPU, of it free nothing"
        assert [needed in message for message in caplog.messages] == [True]
        ray.kill(neighbour)
        assert ranks.wait(30)
        waiting.look()
        assert len(asked) == 2, "they have a place and are starting"
    finally:
        remove_placement_group(ranks)

"""A run's plan on a real cluster, with logical GPUs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import ray

from jobs.capacity.placement import place_learner, place_run
from jobs.options.crpo import load_config
from tangoflux.errors import ResourceError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("one_gpu")]


@pytest.fixture(scope="module")
def one_gpu() -> Iterator[None]:
    """A machine of two CPUs and a GPU, which is logical."""
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


def test_one_gpu_serves_pools_and_learner_in_turn() -> None:
    shared = ("--rollout-num-gpus", "0.6", "--reward-num-gpus", "0.4", "--learner-num-gpus", "1")
    lines = place_run(load_config([*shared, "--rollout-workers", "1"])).splitlines()
    assert [line.split(":")[0].strip() for line in lines] == [
        "placement",
        "1 x rollout workers (1 CPU, 0.6 GPU)",
        "1 x reward workers (0.4 GPU)",
        "1 x learner ranks (1 CPU, 1 GPU)",
    ]
    assert all("1 on node " in line for line in lines[1:])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rollout-num-gpus", "0.6", "--rollout-workers", "2"], "2 x rollout workers .* next to the other workers"),
        (["--rollout-num-gpus", "0.6", "--rollout-workers", "2:4"], "2 x rollout workers"),
        (["--learner-num-gpus", "2"], "1 x learner ranks .* no node has 2 GPU, the largest has 1"),
        (["--reward-resources", "reward=1"], "no node has 1 reward"),
        (["--learner-label-selector", "zone=a"], "no node has the labels zone=a"),
    ],
)
def test_a_plan_that_can_never_be_placed_is_refused(options: list[str], said: str) -> None:
    with pytest.raises(ResourceError, match=said):
        place_run(load_config(options))


def test_more_ranks_than_processors_are_refused() -> None:
    with pytest.raises(ResourceError, match="3 x learner ranks"):
        place_learner(load_config(["--learner-workers", "3"]).learner)

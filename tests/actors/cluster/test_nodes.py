"""Pools on a cluster of several nodes, which come and go."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray
from numpy.typing import NDArray
from ray.cluster_utils import Cluster

from actors.cluster.nodes import free_nodes
from actors.options.pool_size import PoolSize
from actors.pools.pool import Pool
from jobs.options.crpo import load_config
from jobs.stages.pools import Pools, make_room_for_learner

pytestmark = pytest.mark.ray

MILLION = 1_000_000


class Maker:
    """Makes arrays that are too large to travel with an answer, and so stay on the node."""

    def make(self, number: int) -> NDArray[np.float32]:
        time.sleep(0.3)
        return np.full(MILLION, number, np.float32)


class Reader:
    def read(self, array: NDArray[np.float32]) -> float:
        return float(array.mean())


class SlowStarter:
    def __init__(self) -> None:
        time.sleep(3)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head for the readers, to which nodes for the makers can be added."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def maker_node(cluster: Cluster) -> Any:
    return cluster.add_node(num_cpus=1, resources={"making": 1}, labels={"tier": "spot"})


def test_what_a_node_takes_with_it_is_made_again_and_a_new_node_is_used(cluster: Cluster) -> None:
    first = maker_node(cluster)
    maker_node(cluster)
    place = {"num_cpus": 0, "resources": {"making": 1}, "label_selector": {"tier": "spot"}}
    makers = Pool(ray.remote(Maker), (), PoolSize(2, 2), place, "maker")
    readers = Pool(ray.remote(Reader), (), PoolSize(1, 1), {"num_cpus": 1}, "reader")
    stream = readers.stream("read", makers.stream("make", range(16))).values()
    results = dict(next(stream) for _ in range(3))
    cluster.remove_node(first, allow_graceful=False)
    maker_node(cluster)
    for number, value in stream:
        assert number not in results, "every input gives one result"
        results[number] = value
    assert results == {number: float(number) for number in range(16)}


def test_the_learner_gets_room_unless_one_node_has_it_beside_the_pools(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=2)
    rewards = Pool(ray.remote(Reader), (), PoolSize(1, 1), {"num_cpus": 1}, "reader")
    list(rewards.stream("read", [np.ones(1)]))
    free = sorted(node.resources.get("CPU", 0.0) for node in free_nodes())
    assert sum(free) == 2
    make_room_for_learner(load_config(["--learner-num-cpus", str(free[-1])]), Pools(rewards, rewards, rewards))
    assert rewards.status().ready == 1
    # On both nodes together there is room for it even where none has it.
    make_room_for_learner(load_config(["--learner-num-cpus", str(free[-1] + 1)]), Pools(rewards, rewards, rewards))
    assert rewards.status().ready == 0


def test_the_learner_does_not_count_on_what_starting_workers_will_take(cluster: Cluster) -> None:
    """As after a resume that has only the training left: the pools have just been opened."""
    rewards = Pool(ray.remote(SlowStarter), (), PoolSize(1, 1), {"num_cpus": 1}, "reader")
    make_room_for_learner(load_config(["--learner-num-cpus", "1"]), Pools(rewards, rewards, rewards))
    status = rewards.status()
    assert (status.ready, status.pending, status.target) == (0, 0, 0)


@pytest.mark.slow
def test_results_that_a_node_takes_with_it_before_they_are_fetched_are_made_again(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    node = maker_node(cluster)
    makers = Pool(ray.remote(Maker), (), PoolSize(1, 1), {"num_cpus": 0, "resources": {"making": 1}}, "maker")
    stream = makers.stream("make", range(4))
    values = stream.values()
    results = [float(next(values)[1][0])]
    time.sleep(1.5)  # both that may be in flight are done, and lie on the node
    cluster.remove_node(node, allow_graceful=False)
    maker_node(cluster)
    results += [float(array[0]) for _, array in values]
    assert sorted(results) == [0, 1, 2, 3]
    assert "is done again" in caplog.text

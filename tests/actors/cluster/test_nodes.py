"""Pools on a cluster whose nodes are added and removed."""

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
    """Returns arrays that are too large to be inlined in the reply, so they stay on the node."""

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
    """A head for the readers; nodes for the makers can be added."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def maker_node(cluster: Cluster) -> Any:
    return cluster.add_node(num_cpus=1, resources={"making": 1}, labels={"tier": "spot"})


def test_results_lost_with_a_node_are_recomputed_on_a_new_node(cluster: Cluster) -> None:
    first = maker_node(cluster)
    maker_node(cluster)
    options = {"num_cpus": 0, "resources": {"making": 1}, "label_selector": {"tier": "spot"}}
    makers = Pool(ray.remote(Maker), (), PoolSize(2, 2), options, "maker")
    readers = Pool(ray.remote(Reader), (), PoolSize(1, 1), {"num_cpus": 1}, "reader")
    stream = readers.stream("read", makers.stream("make", range(16))).values()
    results = dict(next(stream) for _ in range(3))
    cluster.remove_node(first, allow_graceful=False)
    maker_node(cluster)
    for number, value in stream:
        assert number not in results, "every input yields one result"
        results[number] = value
    assert results == {number: float(number) for number in range(16)}
    status = makers.status()
    assert status.deaths == 1 and status.retried >= 1, "the item that ran on the lost node"


def test_pools_are_released_for_the_learner_unless_it_fits_on_one_node(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=2)
    rewards = Pool(ray.remote(Reader), (), PoolSize(1, 1), {"num_cpus": 1}, "reader")
    list(rewards.stream("read", [np.ones(1)]))
    free = sorted(node.resources.get("CPU", 0.0) for node in free_nodes())
    assert sum(free) == 2
    make_room_for_learner(load_config(["--learner-num-cpus", str(free[-1])]), Pools(rewards, rewards, rewards))
    assert rewards.status().ready == 1
    # Both nodes together have enough free CPUs, but neither alone.
    make_room_for_learner(load_config(["--learner-num-cpus", str(free[-1] + 1)]), Pools(rewards, rewards, rewards))
    assert rewards.status().ready == 0


def test_pools_that_are_still_starting_are_released_for_the_learner(cluster: Cluster) -> None:
    """Like a resume with only the training left to do: the pools have just been opened."""
    rewards = Pool(ray.remote(SlowStarter), (), PoolSize(1, 1), {"num_cpus": 1}, "reader")
    make_room_for_learner(load_config(["--learner-num-cpus", "1"]), Pools(rewards, rewards, rewards))
    status = rewards.status()
    assert (status.ready, status.pending, status.target) == (0, 0, 0)


@pytest.mark.slow
def test_results_lost_before_they_are_fetched_are_recomputed(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    node = maker_node(cluster)
    makers = Pool(ray.remote(Maker), (), PoolSize(1, 1), {"num_cpus": 0, "resources": {"making": 1}}, "maker")
    stream = makers.stream("make", range(4))
    values = stream.values()
    results = [float(next(values)[1][0])]
    time.sleep(1.5)  # both items in flight are done, and their results are on the node
    cluster.remove_node(node, allow_graceful=False)
    maker_node(cluster)
    results += [float(array[0]) for _, array in values]
    assert sorted(results) == [0, 1, 2, 3]
    assert "retrying" in caplog.text

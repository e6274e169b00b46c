"""Pools that grow and shrink, by themselves and on requests from other processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.state import jobs

import actors.pools.pool
from actors.cluster.live_run import POOLS, LiveRun
from actors.options.pool_size import PoolSize
from actors.pools.controller import NAMESPACE, ControllerActor, publish_pools
from actors.pools.pool import Pool
from actors.pools.status import PoolStatus

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


class Sleeper:
    def sleep(self, number: int, seconds: float) -> int:
        time.sleep(seconds)
        return number


class Dying:
    def status(self) -> None:
        os._exit(1)


DyingActor = ray.remote(Dying)
SleeperActor = ray.remote(Sleeper)
REPOSITORY = Path(__file__).resolve().parents[3]
CPU = {"num_cpus": 0.1}


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(SleeperActor, (), PoolSize(1, 3), CPU, "sleeper")
    yield pool
    pool.close()


def poll_until(pool: Pool, number: int) -> bool:
    """Polls until the pool has this many workers and all are ready; False after 30 s."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        pool.poll()
        status = pool.status()
        if (status.ready, status.pending) == (number, 0):
            return True
        time.sleep(0.05)
    return False


def test_a_range_grows_with_the_backlog_and_shrinks_when_idle(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors.pools.pool, "IDLE_S", 0.5)
    assert pool.status().target == 1
    results = [ray.get(reference) for _, reference in pool.stream("sleep", list(range(40)), 0.3)]
    assert sorted(results) == list(range(40))
    assert pool.status().ready == 3
    assert poll_until(pool, 1)


def test_workers_that_a_smaller_pool_drains_complete_their_items(pool: Pool) -> None:
    pool.resize(PoolSize(3, 3))
    assert poll_until(pool, 3)
    stream = pool.stream("sleep", list(range(12)), 0.2)
    results = [next(stream)[0]]
    pool.resize(PoolSize(1, 1))
    results += [number for number, _ in stream]
    assert sorted(results) == list(range(12))
    assert pool.status().deaths == 0
    assert poll_until(pool, 1)


def test_resize_requests_are_applied_also_after_the_controller_was_replaced(pool: Pool, tmp_path: Path) -> None:
    with publish_pools(tmp_path, {"rollouts": pool}) as publisher:
        assert poll_until(pool, 1)
        for size in (PoolSize(2, 2), PoolSize(3, 3)):
            controller = find_controller(pool, publisher.name)
            ray.get(controller.request_resize.remote({"rollouts": size}))
            assert poll_until(pool, size.most)
            assert publishes(pool, controller, str(size))
            ray.kill(controller)
        assert (tmp_path / POOLS).exists()
    assert not (tmp_path / POOLS).exists()


def test_a_controller_starts_as_soon_as_its_name_is_free(pool: Pool, tmp_path: Path) -> None:
    with publish_pools(tmp_path / "a", {"rollouts": pool}) as publisher:
        last = find_controller(pool, publisher.name)
        with publish_pools(
            tmp_path / "a", {"rollouts": pool}
        ) as publisher:  # like a driver that was killed and resumed
            pool.poll()
            assert find_controller(pool, publisher.name) == last
            ray.kill(last)
            until = time.monotonic() + 20
            while find_controller(pool, publisher.name) == last:
                assert time.monotonic() < until, "no new controller was started"
            assert "rollouts" in ray.get(find_controller(pool, publisher.name).status.remote())


@pytest.mark.parametrize(
    ("controller", "status", "said"),
    [
        ("late", 0, "rollouts +1:3"),
        ("absent", 2, "no run is live in .*: its driver is gone"),
        ("dying", 2, "try again"),
    ],
)
def test_scale_finds_a_controller_that_is_being_replaced(
    pool: Pool, tmp_path: Path, controller: str, status: int, said: str
) -> None:
    LiveRun(ray.get_runtime_context().gcs_address, controller, "").write(tmp_path)
    command, drivers = [sys.executable, "jobs/scale.py", "--run-dir", str(tmp_path)], len(jobs())
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if controller == "late":
        until = time.monotonic() + 60
        while len(jobs()) == drivers:
            assert time.monotonic() < until, "scale.py has not joined"
            time.sleep(0.05)
        time.sleep(1)
        known = ControllerActor.options(name=controller, namespace=NAMESPACE, num_cpus=0).remote()
        ray.get(known.sync.remote({"rollouts": pool.status()}))
    if controller == "dying":
        known = DyingActor.options(name=controller, namespace=NAMESPACE, num_cpus=0).remote()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == status, output
    assert re.search(said, output) and "Traceback" not in output


def publishes(pool: Pool, controller: Any, size: str) -> bool:
    """Polls until the controller has the pool's size; False after 20 s."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        pool.poll()
        status: dict[str, PoolStatus] = ray.get(controller.status.remote())
        if status["rollouts"].size == size:
            return True
        time.sleep(0.05)
    return False


def find_controller(pool: Pool, name: str) -> Any:
    """The controller, as soon as the driver has started it."""
    until = time.monotonic() + 20
    while True:
        pool.poll()
        try:
            return ray.get_actor(name, "tangoflux")
        except ValueError:
            assert time.monotonic() < until, "there is no controller"
        time.sleep(0.1)

"""Pools that grow and shrink, by themselves and by requests from elsewhere."""

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
from actors.pools.controller import NAMESPACE, ControllerActor
from actors.pools.live_pools import publish_pools
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


def tend_until(pool: Pool, number: int) -> bool:
    """Whether the pool comes to that many ready actors, and no others."""
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
    assert tend_until(pool, 1)


def test_a_smaller_pool_finishes_what_its_actors_were_given(pool: Pool) -> None:
    pool.resize(PoolSize(3, 3))
    assert tend_until(pool, 3)
    stream = pool.stream("sleep", list(range(12)), 0.2)
    results = [next(stream)[0]]
    pool.resize(PoolSize(1, 1))
    results += [number for number, _ in stream]
    assert sorted(results) == list(range(12))
    assert pool.status().deaths == 0
    assert tend_until(pool, 1)


def test_a_controller_that_dies_is_replaced_and_wishes_are_done(pool: Pool, tmp_path: Path) -> None:
    with publish_pools(tmp_path, {"rollouts": pool}) as client:
        assert tend_until(pool, 1)
        for size in (PoolSize(2, 2), PoolSize(3, 3)):
            controller = named(pool, client.name)
            ray.get(controller.request_resize.remote({"rollouts": size}))
            assert tend_until(pool, size.most)
            assert told(pool, controller, str(size))
            ray.kill(controller)
        assert (tmp_path / POOLS).exists()
    assert not (tmp_path / POOLS).exists()


def test_a_controller_waits_until_its_name_is_free_again(pool: Pool, tmp_path: Path) -> None:
    with publish_pools(tmp_path / "a", {"rollouts": pool}) as client:
        last = named(pool, client.name)
        with publish_pools(tmp_path / "a", {"rollouts": pool}) as client:  # as of a driver that was killed and resumed
            pool.poll()
            assert named(pool, client.name) == last
            ray.kill(last)
            until = time.monotonic() + 20
            while named(pool, client.name) == last:
                assert time.monotonic() < until, "there is no new controller"
            assert "rollouts" in ray.get(named(pool, client.name).status.remote())


@pytest.mark.parametrize(
    ("controller", "status", "said"),
    [
        ("late", 0, "rollouts  1:3"),
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
        ray.get(known.exchange.remote({"rollouts": pool.status()}))
    if controller == "dying":
        known = DyingActor.options(name=controller, namespace=NAMESPACE, num_cpus=0).remote()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == status, output
    assert re.search(said, output) and "Traceback" not in output


def told(pool: Pool, controller: Any, size: str) -> bool:
    """Whether the controller comes to know the pool's size, at the next exchange."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        pool.poll()
        status: dict[str, PoolStatus] = ray.get(controller.status.remote())
        if status["rollouts"].size == size:
            return True
        time.sleep(0.05)
    return False


def named(pool: Pool, name: str) -> Any:
    """The controller, once the driver has made it (again)."""
    until = time.monotonic() + 20
    while True:
        pool.poll()
        try:
            return ray.get_actor(name, "tangoflux")
        except ValueError:
            assert time.monotonic() < until, "there is no controller"
        time.sleep(0.1)

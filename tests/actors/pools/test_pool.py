from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import ray

from actors.options.pool_size import PoolSize
from actors.pools.pool import Pool, share_places
from actors.pools.worker_slot import WorkerError
from tangoflux.errors import DataError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


class Squarer:
    """Squares numbers, and fails on request in the ways of real workers."""

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset

    def set_offset(self, offset: int) -> None:
        self.offset = offset

    def square(self, number: int) -> int:
        return number**2 + self.offset

    def slowly(self, number: int, seconds: float) -> float:
        time.sleep(seconds)
        return time.monotonic()

    def then(self, ended_at: float) -> tuple[float, float]:
        return ended_at, time.monotonic()

    def fail(self, number: int) -> int:
        if number == 2:
            raise ValueError("two is not allowed\nand here is more")
        return number

    def complain(self, number: int) -> None:
        raise DataError(f"{number} is not in the manifest")

    def die_once(self, number: int, flag: Path) -> int:
        if number == 3 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    def die(self, number: int) -> int:
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    def hang_once(self, number: int, flag: Path) -> int:
        if number == 3 and not flag.exists():
            flag.touch()
            time.sleep(600)
        return number

    def pid(self, _: int) -> int:
        return os.getpid()


class BadStart:
    def __init__(self, how: str) -> None:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise DataError("there is no policy at /nowhere")


SquarerActor = ray.remote(Squarer)
CPU = {"num_cpus": 0.25}


@pytest.fixture
def pool(ray_session: None) -> Iterator[Pool]:
    """A pool whose workers may die."""
    pool = Pool(SquarerActor, (), PoolSize(2, 2), CPU, "squarer")
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def shared(ray_session: None) -> Iterator[Pool]:
    """A pool for tests that kill none of its workers."""
    pool = Pool(SquarerActor, (), PoolSize(2, 2), CPU, "squarer")
    yield pool
    pool.close()


def test_every_input_yields_one_result(shared: Pool) -> None:
    results = {number: ray.get(reference) for number, reference in shared.stream("square", range(20))}
    assert results == {number: number**2 for number in range(20)}


def test_no_inputs_yield_no_results(shared: Pool) -> None:
    assert list(shared.stream("square", [])) == []


def test_inputs_are_read_only_as_fast_as_results(shared: Pool) -> None:
    taken: list[int] = []
    stream = shared.stream("square", (taken.append(number) or number for number in range(50)))
    for read, _ in enumerate(stream, start=1):
        time.sleep(0.01)
        assert len(taken) <= read + 4, "each of two workers may be two items ahead of the reader"


def test_a_chained_pool_works_while_the_first_still_does() -> None:
    first = Pool(SquarerActor, (), PoolSize(1, 1), CPU, "sampler")
    second = Pool(SquarerActor, (), PoolSize(1, 1), CPU, "scorer")
    stream = second.stream("then", first.stream("slowly", range(6), 0.2))
    times = {number: ray.get(reference) for number, reference in stream}
    first.close()
    second.close()
    assert sorted(times) == list(range(6))
    assert min(scored for _, scored in times.values()) < max(sampled for sampled, _ in times.values())


def test_an_input_whose_worker_dies_is_retried(pool: Pool, tmp_path: Path) -> None:
    results = [ray.get(reference) for _, reference in pool.stream("die_once", range(10), tmp_path / "died")]
    assert sorted(results) == list(range(10))
    assert (tmp_path / "died").exists()


def test_every_input_yields_one_result_when_a_worker_is_killed(pool: Pool) -> None:
    pids = {ray.get(reference) for _, reference in pool.stream("pid", range(8))}
    stream = pool.stream("slowly", range(8), 0.2)
    results = [next(stream)[0]]
    os.kill(pids.pop(), signal.SIGKILL)
    results += [number for number, _ in stream]
    assert sorted(results) == list(range(8))


def test_only_the_input_that_ends_three_workers_is_blamed(pool: Pool) -> None:
    results: list[int] = []
    with pytest.raises(WorkerError, match=r"squarer: 1 was given up after 3 workers"):
        results.extend(number for number, _ in pool.stream("die", range(4)))
    assert set(results) <= {0, 2, 3}


def test_a_stream_continues_without_an_input_that_was_given_up(pool: Pool) -> None:
    given_up: dict[int, str] = {}
    stream = pool.stream("die", range(6), on_give_up=lambda number, error: given_up.update({number: str(error)}))
    assert sorted(number for number, _ in stream) == [0, 2, 3, 4, 5]
    assert list(given_up) == [1] and "was given up after 3 workers" in given_up[1]


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    pool = Pool(SquarerActor, (), PoolSize(1, 1), CPU, "squarer", task_timeout_s=1.0)
    results = sorted(number for number, _ in pool.stream("hang_once", range(6), tmp_path / "hung"))
    pool.close()
    assert results == list(range(6))


def test_the_deaths_of_idle_workers_are_not_blamed_on_the_next_input() -> None:
    pool = Pool(SquarerActor, (), PoolSize(3, 3), CPU, "squarer")
    while pool.status().ready < 3:
        pool.poll()
        time.sleep(0.05)
    for pid in {pid for _, pid in pool.stream("pid", range(60)).values()}:
        os.kill(pid, signal.SIGKILL)
    time.sleep(1.5)
    assert [number for number, _ in pool.stream("square", [1])] == [1]
    status = pool.status()
    pool.close()
    assert (status.deaths, status.retried) == (3, 0)


@pytest.mark.parametrize("ready", [True, False])
def test_a_worker_that_hangs_in_a_broadcast_is_replaced(tmp_path: Path, ready: bool) -> None:
    pool = Pool(SquarerActor, (), PoolSize(1, 1), CPU, "squarer", task_timeout_s=1.0)
    if ready:
        list(pool.stream("square", [1]))
    pool.broadcast("hang_once", 3, tmp_path / "hung")
    assert [number for number, _ in pool.stream("square", [1])] == [1]
    status = pool.status()
    pool.close()
    assert status.deaths == 1


def test_an_error_of_the_method_names_the_input_and_keeps_its_cause(shared: Pool) -> None:
    with pytest.raises(WorkerError, match=r"^squarer: 2 failed in fail: ValueError: two is not allowed$") as caught:
        list(shared.stream("fail", range(4)))
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_tangoflux_error_of_the_method_is_raised_unchanged(shared: Pool) -> None:
    with pytest.raises(DataError, match=r"^0 is not in the manifest$"):
        list(shared.stream("complain", [0]))


def test_an_error_in_the_constructor_is_raised() -> None:
    pool = Pool(ray.remote(BadStart), ("raise",), PoolSize(1, 1), CPU, "bad starter")
    with pytest.raises(WorkerError, match=r"could not start: .*DataError: there is no policy at"):
        next(pool.stream("square", [1]))
    pool.close()


def test_workers_that_die_during_start_up_raise_an_error() -> None:
    pool = Pool(ray.remote(BadStart), ("kill",), PoolSize(1, 1), CPU, "bad starter")
    with pytest.raises(WorkerError, match=r"^bad starter: died 3 times in a row before it was ready"):
        next(pool.stream("square", [1]))
    pool.close()


def test_workers_that_fit_no_node_raise_an_error() -> None:
    pool = Pool(SquarerActor, (), PoolSize(1, 1), {"num_cpus": 64}, "giant", start_timeout_s=0.5)
    with pytest.raises(WorkerError, match=r"no giant was ready within 0.5 s: each needs 64 CPU, free in .* CPU"):
        next(pool.stream("square", [1]))
    pool.close()


def test_pools_take_turns_where_the_cluster_has_a_place_for_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("actors.pools.pool.SHARE_S", 0.3)
    monkeypatch.setattr("actors.pools.places.SHARE_S", 0.3)
    large = {"num_cpus": 1.25}
    first, second = (Pool(SquarerActor, (), PoolSize(1, 2), large, name) for name in ("first", "second"))
    share_places(first, second)
    with closing(first), closing(second), caplog.at_level(logging.WARNING, logger="actors.pools.pool"):
        squares = second.stream("square", first.stream("square", range(5)))
        assert dict(squares.values()) == {number: number**4 for number in range(5)}
    assert "an idle first ends, as no second has a place" in caplog.text
    assert "an idle second ends, as no first has a place" in caplog.text


def test_a_pool_without_a_place_says_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("actors.pools.pool.SHARE_S", 0.1)
    monkeypatch.setattr("actors.pools.places.TELL_S", 0.2)
    pool = Pool(SquarerActor, (), PoolSize(1, 1), {"num_cpus": 64}, "giant", start_timeout_s=2.5)
    with closing(pool), pytest.raises(WorkerError):
        next(pool.stream("square", [1]))
    assert caplog.text.count("no giant has had a place for") == 1


def test_workers_whose_environment_cannot_be_created_raise_an_error() -> None:
    broken = {"num_cpus": 0.25, "runtime_env": {"conda": "an-environment-that-is-not-there"}}
    pool = Pool(SquarerActor, (), PoolSize(1, 1), broken, "squarer")
    with pytest.raises(WorkerError, match=r"^squarer: died 3 times in a row before it was ready"):
        next(pool.stream("square", [1]))
    pool.close()


def test_broadcasts_reach_ready_starting_and_replacement_workers(pool: Pool, tmp_path: Path) -> None:
    pool.broadcast("set_offset", 100)
    assert {ray.get(reference) for _, reference in pool.stream("square", [0] * 8)} == {100}
    pool.broadcast("set_offset", ray.put(7))
    assert {ray.get(reference) for _, reference in pool.stream("square", [0] * 8)} == {7}
    list(pool.stream("die_once", range(4), tmp_path / "died"))
    assert {ray.get(reference) for _, reference in pool.stream("square", [0] * 8)} == {7}


def test_a_failing_broadcast_is_raised(pool: Pool) -> None:
    list(pool.stream("square", range(8)))
    with pytest.raises(DataError, match="5 is not in the manifest"):
        pool.broadcast("complain", 5)


def test_release_frees_the_cpus_and_the_next_stream_starts_new_workers(pool: Pool) -> None:
    pool.broadcast("set_offset", 3)
    assert len(list(pool.stream("square", range(4)))) == 4
    taken = free_cpus()
    pool.release()
    deadline = time.monotonic() + 20
    while free_cpus() < taken + 0.5 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert free_cpus() == taken + 0.5
    assert [ray.get(reference) for _, reference in pool.stream("square", [1])] == [4], "broadcasts are remembered"


def free_cpus() -> float:
    return ray.available_resources()["CPU"]


def test_an_abandoned_stream_does_not_disturb_the_next(shared: Pool) -> None:
    abandoned = shared.stream("slowly", range(8), 0.05)
    next(abandoned)
    assert sorted(number for number, _ in shared.stream("square", range(8))) == list(range(8))
    with pytest.raises(RuntimeError, match="ended by another"):
        next(abandoned)

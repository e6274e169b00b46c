"""The endpoint on a real Ray Serve, over HTTP."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import ray

from actors.storage.policy_store import PolicyStore
from serve.run import main
from tangoflux.errors import TangoFluxError
from tests.integration.test_crpo import REPOSITORY, options
from tests.integration.test_crpo import prompts as prompts
from tests.serve.conftest import free_port
from tests.serve.served import QUICK, URL, deploy, eventually

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def small(address: str, tiny_policy_dir: Path) -> Generator[httpx.Client]:
    """Of an endpoint with room for 8 samples of 4 s at once, and for as many waiting ones."""
    limits = {"batch_memory_gb": "0.0075", "max_waiting": "8", "max_steps": "1000"}
    with deploy(address, policy=str(tiny_policy_dir), **limits) as client:
        yield client


@pytest.fixture(scope="module")
def followed(
    address: str, tiny_policy_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Generator[tuple[httpx.Client, PolicyStore]]:
    """Of an endpoint that follows a run, and the run's policies."""
    run_dir = tmp_path_factory.mktemp("followed")
    store = PolicyStore(run_dir / "policies")
    store.publish(0, tiny_policy_dir)
    with deploy(address, run_dir=str(run_dir)) as client:
        yield client, store


def test_audio_progress_and_health_come_over_http(small: httpx.Client) -> None:
    client = small
    answer = client.post(URL, json=QUICK)
    assert answer.status_code == 200 and answer.content[:4] == b"RIFF", answer.text
    assert answer.headers["x-policy-version"] == "base"
    with client.stream("POST", URL, json=QUICK, headers={"Accept": "text/event-stream"}) as events:
        names = [line for line in events.iter_lines() if line.startswith("event")]
    assert names == ["event: progress"] * 3 + ["event: audio"]
    assert client.get("/health").json()["status"] == "ok"
    assert "TangoFlux" in client.get("/").text


def test_more_than_has_room_is_told_to_come_back_and_who_hangs_up_makes_room(address: str, small: httpx.Client) -> None:
    client = small
    long = {**QUICK, "n": 8, "num_inference_steps": 1000, "audio_length": 4}

    async def until(**expected: int) -> None:
        await asyncio.to_thread(eventually, lambda: expected.items() <= client.get("/health").json().items())

    async def scene() -> httpx.Response:
        async with httpx.AsyncClient(base_url=address, timeout=60) as clients:
            flying = asyncio.create_task(clients.post(URL, json=long))
            await until(sampling=8)
            waiting = asyncio.create_task(clients.post(URL, json=long))
            await until(waiting=8)
            full = await clients.post(URL, json=long)
            for task in (flying, waiting):
                assert task.cancel(), "it was still under way, and hangs up"
            await until(sampling=0, waiting=0)
            return full

    full = asyncio.run(scene())
    assert full.status_code == 503 and int(full.headers["retry-after"]) == 2
    assert client.post(URL, json=QUICK).status_code == 200


def test_samples_queue_and_policy_are_on_rays_prometheus_endpoint(
    followed: tuple[httpx.Client, PolicyStore], metrics_port: int
) -> None:
    client, store = followed
    store.publish(1, store.path(0), {"fc.0.weight": store.state(0)["fc.0.weight"]})
    eventually(lambda: client.get("/health").json()["version"] == "v0001")
    assert client.post(URL, json={**QUICK, "n": 7}).headers["x-policy-version"] == "v0001"

    def values(name: str) -> set[float]:
        """Of all replicas; Ray shows those of dead ones for a while."""
        page = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
        return set(map(float, re.findall(rf"^ray_tangoflux_serve_{name}{{.*}} (\S+)$", page, re.MULTILINE)))

    eventually(lambda: 7 in values("samples_total"), 40)
    assert 1 in values("policy_version")
    assert 0 in values("refused_policies") & values("sampling") & values("waiting")


def test_policies_are_swapped_under_load_and_no_request_fails(followed: tuple[httpx.Client, PolicyStore]) -> None:
    client, store = followed
    weights = store.state(0)
    answers: list[httpx.Response] = []
    with ThreadPoolExecutor(4) as pool:
        for version in range(2, 5):
            futures = [pool.submit(client.post, URL, json={**QUICK, "num_inference_steps": 20}) for _ in range(8)]
            store.publish(version, store.path(0), {"fc.0.weight": weights["fc.0.weight"] * (1 + version)})
            answers += [future.result() for future in futures]
            eventually(lambda: client.get("/health").json()["version"] == f"v{version:04d}", 10)  # noqa: B023
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-policy-version"] for answer in answers} <= {f"v{version:04d}" for version in range(5)}
    by_version = [client.post(URL, json={**QUICK, "model": name}) for name in ("base", "v0003", "latest")]
    assert [answer.headers["x-policy-version"] for answer in by_version] == ["v0000", "v0003", "v0004"]
    assert len({answer.content for answer in by_version}) == 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--host", "0.0.0.0"], "there is no key"),
        (["--run-dir", "/nowhere"], "is not a directory"),
        (["--policy", "/nowhere"], "not a model directory"),
        (["--reward", "nonsense"], "nonsense"),
        (["--prot", "1"], "did you mean --port"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(arguments: list[str], text: str) -> None:
    with pytest.raises(TangoFluxError, match=f"^.*{text}.*$"):
        main(["--port", str(free_port()), *arguments])


def test_a_refusal_ends_the_process_with_status_2_and_one_line() -> None:
    command = [sys.executable, "serve/run.py", "--host", "0.0.0.0"]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2 and "there is no key" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_run_in_another_job_is_followed(address: str, tiny_policy_dir: Path, prompts: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    client = deploy(address, run_dir=str(run_dir))
    assert client.get("/health").status_code == 503
    run_dir.rmdir()
    command = [sys.executable, "jobs/crpo.py", *options(tiny_policy_dir, prompts, run_dir)]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": str(REPOSITORY)}
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    pointer = run_dir / "policies" / "v0001"
    while not pointer.is_dir():
        assert job.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.1)
    eventually(lambda: client.post(URL, json=QUICK).headers.get("x-policy-version") == "v0001", 10)
    assert job.wait(120) == 0
    facts = client.get("/v1/policies").json()
    assert [row["version"] for row in facts["policies"]] == ["v0000", "v0001"]
    assert all(row["heldout"]["reward"]["mean"] for row in facts["policies"])

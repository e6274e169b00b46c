"""The endpoint on a real Ray Serve, over HTTP."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve

from actors.policy_store import PolicyStore
from serve.app import application
from serve.options import options_of
from tests.integration.test_crpo import REPOSITORY, options
from tests.integration.test_crpo import prompts as prompts

pytestmark = pytest.mark.ray

URL = "/v1/audio/generate"
QUICK: dict[str, Any] = {"input": "a dog barks", "audio_length": 0.5, "num_inference_steps": 3, "seed": 1}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of Serve's HTTP proxy, on a Ray with processors enough for a run beside it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    ray.init(num_cpus=6, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "ERROR"})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


def deploy(address: str, **arguments: Any) -> httpx.Client:
    serve.run(application(options_of({"threads": 1, "poll_s": 0.2, **arguments})), name="tangoflux")
    return httpx.Client(base_url=address, timeout=60)


def eventually(condition: Callable[[], Any], seconds: float = 20) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "in vain"
        time.sleep(0.1)
    return found


@pytest.fixture
def run(tmp_path: Path, tiny_policy_dir: Path) -> Path:
    PolicyStore(tmp_path / "run" / "policies").publish(0, tiny_policy_dir)
    return tmp_path / "run"


def test_audio_progress_and_health_come_over_http(address: str, tiny_policy_dir: Path) -> None:
    client = deploy(address, model=str(tiny_policy_dir))
    answer = client.post(URL, json=QUICK)
    assert answer.status_code == 200 and answer.content[:4] == b"RIFF", answer.text
    assert answer.headers["x-policy-version"] == "base"
    with client.stream("POST", URL, json=QUICK, headers={"Accept": "text/event-stream"}) as events:
        names = [line for line in events.iter_lines() if line.startswith("event")]
    assert names == ["event: progress"] * 3 + ["event: audio"]
    assert client.get("/health").json()["status"] == "ok"
    assert "TangoFlux" in client.get("/").text


def test_more_than_has_room_is_told_to_come_back_and_who_hangs_up_makes_room(
    address: str, tiny_policy_dir: Path
) -> None:
    client = deploy(address, model=str(tiny_policy_dir), batch_memory_gb="1e-6", max_waiting="4", max_steps="1000")
    long = {**QUICK, "n": 4, "num_inference_steps": 1000, "audio_length": 4}
    with ThreadPoolExecutor(4) as pool:
        hanging = [pool.submit(_hang_up, client, long)]
        eventually(lambda: client.get("/health").json()["sampling"] == 4)
        hanging.append(pool.submit(_hang_up, client, long))
        eventually(lambda: client.get("/health").json()["waiting"] == 4)
        full = client.post(URL, json=long)
        assert full.status_code == 503 and int(full.headers["retry-after"]) == 2
        assert all(future.result() for future in hanging)
    eventually(lambda: client.get("/health").json()["sampling"] == 0, 5)
    assert client.post(URL, json=QUICK).status_code == 200


def _hang_up(client: httpx.Client, body: dict[str, Any]) -> bool:
    try:
        client.post(URL, json=body, timeout=3)
    except httpx.ReadTimeout:
        return True
    return False


def test_policies_are_swapped_under_load_and_no_request_fails(address: str, run: Path) -> None:
    client = deploy(address, run_dir=str(run))
    store = PolicyStore(run / "policies")
    weights = store.state(0)
    answers: list[httpx.Response] = []
    with ThreadPoolExecutor(4) as pool:
        for version in range(1, 4):
            futures = [pool.submit(client.post, URL, json={**QUICK, "num_inference_steps": 20}) for _ in range(8)]
            store.publish(version, store.path(0), {"fc.0.weight": weights["fc.0.weight"] * (1 + version)})
            answers += [future.result() for future in futures]
            eventually(lambda: client.get("/health").json()["version"] == f"v{version:04d}", 10)  # noqa: B023
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-policy-version"] for answer in answers} <= {f"v{version:04d}" for version in range(4)}
    by_version = [client.post(URL, json={**QUICK, "model": name}) for name in ("base", "v0002", "latest")]
    assert [answer.headers["x-policy-version"] for answer in by_version] == ["v0000", "v0002", "v0003"]
    assert len({answer.content for answer in by_version}) == 3


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


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--host", "0.0.0.0"], "there is no key"),
        (["--run-dir", "/nowhere"], "is no directory"),
        (["--model", "/nowhere"], "no model directory"),
        (["--reward", "nonsense"], "nonsense"),
        (["--prot", "1"], "did you mean --port"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(arguments: list[str], text: str) -> None:
    command = [sys.executable, "serve/run.py", *arguments]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2 and text in ended.stderr
    assert len(ended.stderr.splitlines()) == 1

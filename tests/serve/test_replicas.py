"""Two replicas under load, of which one is killed while the policy changes ten times."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from actors.storage.policy_store import PolicyStore
from tests.serve.served import QUICK, URL, deploy, eventually, replicas

pytestmark = pytest.mark.ray

SWAPS, CLIENTS = 10, 4


def ask(client: httpx.Client, seed: int) -> httpx.Response:
    """As a client does that tries a second time."""
    body = {**QUICK, "seed": seed, "num_inference_steps": 10}
    try:
        answer = client.post(URL, json=body)
        if answer.status_code < 500:
            return answer
        time.sleep(float(answer.headers.get("retry-after", 0)))
    except httpx.TransportError:
        pass
    return client.post(URL, json=body)


@contextmanager
def load(client: httpx.Client) -> Generator[list[httpx.Response]]:
    """Clients that ask again and again; gives their answers."""
    over, answers = threading.Event(), list[httpx.Response]()

    def work(number: int) -> None:
        while not over.is_set():
            answers.append(ask(client, number))

    with ThreadPoolExecutor(CLIENTS) as pool:
        futures = [pool.submit(work, number) for number in range(CLIENTS)]
        try:
            yield answers
        finally:
            over.set()
        for future in futures:
            future.result()


def test_ten_swaps_and_a_death_fail_no_request_that_is_tried_twice(address: str, run: Path) -> None:
    client = deploy(address, run_dir=str(run), replicas="2")
    store = PolicyStore(run / "policies")
    weights = store.state(0)["fc.0.weight"]
    eventually(lambda: len(replicas()) == 2)
    with load(client) as answers:
        for version in range(1, SWAPS + 1):
            store.publish(version, store.path(0), {"fc.0.weight": weights * (1 + version)})
            if version == SWAPS // 2:
                replicas()[0].kill()
            eventually(lambda: answers and answers[-1].headers.get("x-policy-version") == f"v{version:04d}")  # noqa: B023
        eventually(lambda: len(replicas()) == 2, 60)
    assert {answer.status_code for answer in answers} == {200}
    versions = {answer.headers["x-policy-version"] for answer in answers}
    assert versions <= {f"v{version:04d}" for version in range(SWAPS + 1)} and f"v{SWAPS:04d}" in versions
    assert len(answers) > 50, "it was a load"

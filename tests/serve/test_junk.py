"""What comes from a network that wishes no good: only answers of 4xx or 503, no crash, no growing memory."""

from __future__ import annotations

import socket
import time
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.serve.served import QUICK, URL, deploy, eventually, replicas

pytestmark = pytest.mark.ray

BODY_S = 1.0
MAX_BODY = 4096
CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@pytest.fixture(scope="module")
def client(address: str, tiny_policy_dir: Path) -> Generator[httpx.Client]:
    """Of an endpoint whose largest requests are small."""
    limits = {"max_body_bytes": str(MAX_BODY), "max_body_s": str(BODY_S), "max_steps": "4", "max_samples": "2"}
    with deploy(address, policy=str(tiny_policy_dir), **limits) as client:
        yield client


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_one_that_is_documented(client: httpx.Client, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == 4
    for operation in operations:
        if mode in modes(operation):
            ask(operation.as_strategy(generation_mode=mode))


def modes(operation: Any) -> list[GenerationMode]:
    """What is asked for nothing cannot be asked for it wrongly."""
    return list(GenerationMode) if operation.body or operation.query else [GenerationMode.POSITIVE]


def ask(cases: SearchStrategy[Any]) -> None:
    @given(case=cases)
    @settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=CHECKS)
    def check(case: Any) -> None:
        # Some limits are options, which the document does not know.
        case.call_and_validate(timeout=30, excluded_checks=[positive_data_acceptance])

    check()


def pieces(*parts: bytes, times: int = 1) -> Iterable[bytes]:
    return list(parts) * times


POST = b"POST /v1/audio/generate HTTP/1.1\r\nHost: x\r\n"

RAW = {
    "no HTTP": [b"\x00\xff\xfe GET nonsense\r\n\r\n"],
    "TLS": [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200],
    "an endless first line": pieces(b"GET /" + b"a" * 65536, times=4),
    "endless headers": pieces(b"GET / HTTP/1.1\r\nHost: x\r\n", b"x-junk: " + b"a" * 65536 + b"\r\n", times=4),
    "a length that is none": [POST + b"Content-Length: nine\r\n\r\n{}"],
    "a length beyond all bounds": [POST + b"Content-Length: 9" + b"9" * 30],
    "a path out of the tree": [b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"],
    "a path with a NUL": [b"GET /%00%ff/v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"],
    "broken chunks": [
        b"POST /v1/audio/generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n"
    ],
}


@pytest.mark.parametrize("kind", RAW)
def test_bytes_that_are_no_request_are_refused(client: httpx.Client, kind: str) -> None:
    status = raw(client, RAW[kind])
    assert status is None or 400 <= status < 500, status
    assert client.get("/health").status_code == 200


def test_a_slow_client_is_cut_off_and_keeps_nobody_waiting(client: httpx.Client) -> None:
    head = POST + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    with ThreadPoolExecutor(40) as pool:
        slow = [pool.submit(raw, client, [head]) for _ in range(40)]
        time.sleep(0.3)
        started = time.monotonic()
        assert client.post(URL, json=QUICK).status_code == 200
        assert time.monotonic() - started < 5
        assert 408 in {future.result() for future in slow} <= {408, 503}


def test_junk_leaves_nothing_in_the_memory(client: httpx.Client) -> None:
    junk = [
        b"{" * MAX_BODY,
        b"\xff" * MAX_BODY,
        b"x" * 10 * MAX_BODY,
        b'{"input": NaN, "model": "' + b"a" * 3000 + b'"}',
    ]

    def throw(times: int) -> set[int]:
        with ThreadPoolExecutor(8) as pool:
            answers = pool.map(lambda number: client.post(URL, content=junk[number % 4]).status_code, range(times))
            return set(answers)

    throw(200)  # so that pools and caches have their sizes
    [replica] = eventually(lambda: (found := replicas()) and len(found) == 1 and found)
    before = replica.memory_info().rss
    assert throw(1500) <= {400, 413, 422, 503}
    assert replica.memory_info().rss - before < 20e6


def raw(client: httpx.Client, parts: Iterable[bytes]) -> int | None:
    """The status that these bytes are answered with; None where the connection is closed without one."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            answer = connection.recv(4096)
        except ConnectionError:
            return None
    return int(answer.split(b" ", 2)[1]) if answer else None

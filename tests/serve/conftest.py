"""A real Serve, one for all modules."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray import serve

from actors.policy_store import PolicyStore


@pytest.fixture(scope="package")
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


@pytest.fixture
def run(tmp_path: Path, tiny_policy_dir: Path) -> Path:
    """A run directory with its first policy."""
    PolicyStore(tmp_path / "run" / "policies").publish(0, tiny_policy_dir)
    return tmp_path / "run"

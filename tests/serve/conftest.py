"""A real Serve, one for all modules."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve

from actors.cluster.session import NO_METRICS
from actors.storage.policy_store import PolicyStore


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="package")
def metrics_port() -> int:
    """Where Ray shows its metrics."""
    return free_port()


@pytest.fixture(scope="package")
def address(metrics_port: int) -> Iterator[str]:
    """Of Serve's HTTP proxy, on a Ray with processors enough for a run beside it."""
    port = free_port()
    for name in NO_METRICS:  # which a job in this process may have left
        os.environ.pop(name, None)
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(num_cpus=6, _metrics_export_port=metrics_port, **quiet)
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "ERROR"})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


@pytest.fixture
def run(tmp_path: Path, tiny_policy_dir: Path) -> Path:
    """A run directory with its first policy."""
    PolicyStore(tmp_path / "run" / "policies").publish(0, tiny_policy_dir)
    return tmp_path / "run"

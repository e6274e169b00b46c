"""A run's metrics, read from the endpoint that Prometheus scrapes."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]

DRIVER = """
    import sys, time
    import ray
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _metrics_export_port=int(sys.argv[1]))
    from actors.workers.chunk import rollout_chunks
    from actors.workers.fakes import FakeRollout
    from actors.pools.pool import Pool
    from actors.options.pool_size import PoolSize
    from actors.pools.telemetry import Telemetry
    from tangoflux.data.prompts import Prompt
    pool = Pool(ray.remote(FakeRollout), (), PoolSize(1, 1), {"num_cpus": 0}, "rollout worker")
    prompts = [Prompt(f"p{number}", "a dog", 1.0) for number in range(6)]
    telemetry = Telemetry()
    telemetry.record_pools({"rollouts": pool.status()})
    list(pool.stream("sample", rollout_chunks(prompts, 1, 0, 2, 3)))
    telemetry.record_pools({"rollouts": pool.status()})
    telemetry.show("policy_version", 3)
    telemetry.count("dropped_groups", 2)
    print("recorded", flush=True)
    sys.stdin.read()
"""


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def scrape(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


@pytest.mark.ray
def test_metrics_of_pools_and_policy_are_on_rays_prometheus_endpoint() -> None:
    port = free_port()
    command = [sys.executable, "-c", textwrap.dedent(DRIVER), str(port)]
    driver = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout and driver.stdout.readline() == "recorded\n"
        until = time.monotonic() + 60
        while "tangoflux_dropped_groups" not in (page := scrape(port)):
            assert time.monotonic() < until, page[-2000:]
            time.sleep(0.5)
    finally:
        driver.communicate("")
    values = dict(re.findall(r"^ray_tangoflux_(\w+)\{[^}]*\} (\S+)$", page, re.MULTILINE))
    assert float(values["samples_total"]) == 12
    assert float(values["policy_version"]) == 3
    assert float(values["dropped_groups_total"]) == 2
    assert float(values["workers_ready"]) == 1

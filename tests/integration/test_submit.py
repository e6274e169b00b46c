"""Runs that are submitted with `ray job submit` to a head on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.test_crpo import REPOSITORY

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = (
    *("--iterations", "1", "--prompts-per-iteration", "16", "--num-samples", "2", "--num-steps", "2"),
    *("--rollout-chunk-prompts", "2", "--heldout-num-prompts", "4", "--num-audio-samples", "1", "--epochs", "1"),
    *("--batch-size", "4", "--warmup-steps", "1", "--learner-threads", "1"),
)


class Head:
    """A Ray head with token authentication."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self._port = listener.getsockname()[1]
        home = directory / "home"
        home.mkdir()
        self._environment = os.environ | {"HOME": str(home), "RAY_AUTH_MODE": "token", "NO_COLOR": "1"}
        self._environment |= {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self._port}"}
        # As on a cluster, "python" is the one that has this project installed.
        self._environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.ray("get-auth-token", "--generate")
        options = ["--head", "--port=0", "--num-cpus=2", "--dashboard-host=127.0.0.1", "--block"]
        options += [f"--dashboard-port={self._port}", "--disable-usage-stats", f"--temp-dir={directory / 'r'}"]
        options += ["--dashboard-agent-listen-port=0"]  # another Ray on this machine may use the default port
        self._process = subprocess.Popen(
            [*self._command, "start", *options], env=self._environment, stdout=subprocess.DEVNULL, cwd=directory
        )
        until = time.monotonic() + 90
        while self.ray("job", "list", check=False).returncode:
            assert time.monotonic() < until and self._process.poll() is None
            time.sleep(1)

    @property
    def _command(self) -> list[str]:
        return [str(Path(sys.executable).with_name("ray"))]

    def ray(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a ``ray`` command in the checkout."""
        command = [*self._command, *arguments]
        return subprocess.run(
            command, env=self._environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=400, check=check
        )

    def submit(self, name: str, *arguments: str) -> str:
        """Submits a run and waits for its end; returns the output."""
        options = ["--submission-id", name, "--working-dir", ".", *arguments]
        until = time.monotonic() + 60
        ended = self.ray("job", "submit", *options, check=False)
        while "No available agent" in ended.stderr and time.monotonic() < until:  # the head is still starting
            time.sleep(1)
            ended = self.ray("job", "submit", *options, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def close(self) -> None:
        family = [self._process, *psutil.Process(self._process.pid).children(recursive=True)]
        for process in family:
            process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    # Paths of sockets must be short.
    head = Head(Path(tmp_path_factory.mktemp("h")))
    yield head
    head.close()


def kinds(run_dir: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_submitted_run_succeeds_and_its_log_is_plain_lines(head: Head, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    head.submit("first", "--", "python", "jobs/crpo.py", "--run-dir", str(run_dir), *SMALL)
    assert "succeeded" in head.ray("job", "status", "first").stdout
    log = head.ray("job", "logs", "first").stdout
    assert "iteration 1/1 · rollouts · done in" in log
    ours = [line for line in log.splitlines() if " cli.py:" not in line]  # Ray's own lines are coloured
    assert not [line for line in ours if "\x1b" in line or "\r" in line]
    assert kinds(run_dir)[-1] == "end"
    assert (run_dir / "report.html").is_file() and (run_dir / "policies" / "v0001").is_dir()


def test_a_submitted_run_that_was_stopped_continues_with_resume(head: Head, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run = ["python", "jobs/crpo.py", "--run-dir", str(run_dir)]
    head.submit("second", "--no-wait", "--", *run, *SMALL)
    until = time.monotonic() + 200
    while not list(run_dir.glob("rollouts/i0001/part-*.parquet")):
        assert time.monotonic() < until, head.ray("job", "logs", "second").stdout
        time.sleep(0.2)
    head.ray("job", "stop", "second")
    assert "was stopped" in head.ray("job", "status", "second").stdout
    head.submit("third", "--", *run, "--resume")
    assert kinds(run_dir).count("run") == 2 and kinds(run_dir)[-1] == "end"

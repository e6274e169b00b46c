from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from actors.cluster import local
from actors.cluster.local import start_ray
from actors.cluster.session import join_cluster
from tangoflux.errors import ResourceError

REPOSITORY = Path(__file__).resolve().parents[3]

START = "from actors.cluster.local import start_ray; start_ray(1)"

JOB = """
import sys, time
from tangoflux.cli import run_main

def main(argv):
    from actors.cluster.session import ray_session
    import ray

    with ray_session():
        print(ray.get(ray.remote(lambda: "worker").remote()), flush=True)
        if sys.argv[1:] == ["wait"]:
            ray.wait([ray.remote(lambda: time.sleep(60)).remote()])
    return 0

run_main(main)
"""


@pytest.fixture
def ray_tmpdir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Ray's temporary directory, with a path short enough for its sockets."""
    directory = Path(tempfile.mkdtemp(prefix="ray-"))
    monkeypatch.setenv("RAY_TMPDIR", str(directory))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def address_file(ray_tmpdir: Path, address: str) -> None:
    """What ``ray start`` leaves, also after its processes were killed."""
    (ray_tmpdir / "ray").mkdir()
    (ray_tmpdir / "ray" / "ray_current_cluster").write_text(address)


def last_line(command: list[str]) -> str:
    """The last line that a command says on stderr."""
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60).stderr.splitlines()[-1]


def job(*arguments: str) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-c", JOB, *arguments], subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize(
    ("variable", "directory"), [("HOME", "/proc"), ("HOME", "/dev/null/a"), ("RAY_TMPDIR", "/" + 90 * "a")]
)
def test_directories_that_ray_cannot_use_are_named(
    ray_tmpdir: Path, variable: str, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable == "RAY_TMPDIR":
        directory = str(ray_tmpdir) + directory
        Path(directory).mkdir()
    monkeypatch.setenv(variable, directory)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    said = last_line([sys.executable, "-c", START])
    assert re.search(rf"ResourceError: Ray cannot start on this machine: .*{directory}.* set HOME and RAY_TMPDIR", said)


def test_all_that_ray_would_wait_for_in_vain_is_named_before_it_starts(
    ray_tmpdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "SHARED_MEMORY", Path("/proc/sys/kernel/random"))  # read-only for everybody
    monkeypatch.setattr(local, "LEAST_BYTES", 1 << 60)
    monkeypatch.setattr(local, "LEAST_FILES", resource.getrlimit(resource.RLIMIT_NOFILE)[1] + 1)
    with pytest.raises(ResourceError) as refused:
        start_ray(1)
    for part in (f"{ray_tmpdir} has ", "set RAY_TMPDIR", "/proc/sys/kernel/random is not writable", "ulimit -n"):
        assert part in str(refused.value)
    assert not list(ray_tmpdir.iterdir())


@pytest.mark.skipif(subprocess.run(["unshare", "-rn", "true"]).returncode != 0, reason="no network namespaces here")
def test_a_loopback_interface_that_is_down_is_named() -> None:
    said = last_line(["unshare", "-rn", sys.executable, "-c", START])
    assert "the loopback interface is down; bring it up" in said


def test_ray_starts_beside_a_cluster_and_with_the_interpreter_of_uv_run(ray_tmpdir: Path) -> None:
    uv = ray_tmpdir / "run"
    uv.write_text("import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)")
    with socket.create_server(("127.0.0.1", 0)) as cluster:
        address = f"127.0.0.1:{cluster.getsockname()[1]}"
        address_file(ray_tmpdir, address)
        done = subprocess.run(
            ["uv", "run", sys.executable, "-c", JOB],
            executable=sys.executable,
            cwd=ray_tmpdir,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert (done.returncode, done.stdout) == (0, "worker\n")
    assert done.stderr == f"Ray is started beside the cluster at {address}; set RAY_ADDRESS=auto to join that one\n"


def test_the_address_of_a_cluster_that_is_gone_is_refused_at_once_or_not_mentioned(
    ray_tmpdir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    address_file(ray_tmpdir, "127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    started = time.monotonic()
    with pytest.raises(ResourceError, match="RAY_ADDRESS=auto cannot be joined"):
        join_cluster("auto")
    assert time.monotonic() - started < 20
    local.say_if_another_runs()
    assert not caplog.text


def test_sigterm_ends_with_143_while_ray_starts_and_while_it_waits(ray_tmpdir: Path) -> None:
    starting = job()
    while not any("gcs_server" in child.name() for child in psutil.Process(starting.pid).children(recursive=True)):
        assert starting.poll() is None
        time.sleep(0.05)
    starting.send_signal(signal.SIGTERM)
    waiting = job("wait")
    assert waiting.stdout and waiting.stdout.readline() == "worker\n"
    time.sleep(0.5)  # so that it waits in Ray
    waiting.send_signal(signal.SIGTERM)
    for process in (starting, waiting):
        assert (process.communicate(timeout=60)[1], process.returncode) == ("interrupted\n", 143)

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.storage.run_lock import LOCK, STALE_S, RunLock, is_alive
from tangoflux.errors import ConfigError

HOLDER = "import sys, time; from pathlib import Path; from actors.storage.run_lock import RunLock\n"
REPOSITORY = Path(__file__).resolve().parents[3]


def python(code: str, directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER + code, str(directory)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def holder(directory: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    process = python("with RunLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)", directory)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def of_another_host(directory: Path, seconds_ago: float) -> Path:
    name = {"host": "elsewhere", "pid": 7, "started": 1.0, "since": "2026-01-01"}
    lock = directory / LOCK
    lock.write_text(json.dumps(name))
    then = time.time() - seconds_ago
    os.utime(lock, (then, then))
    return lock


def test_the_second_driver_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    first = holder(tmp_path)
    try:
        with pytest.raises(ConfigError, match=rf"is in use: process {first.pid} on \S+ works there since \d{{4}}-"):
            RunLock(tmp_path).__enter__()
    finally:
        first.kill()
        first.communicate()


def test_a_lock_is_gone_with_its_block_and_taken_over_at_once_after_a_sigkill(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()
    first = holder(tmp_path)
    first.kill()
    first.communicate()
    with RunLock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_another_hosts_lock_is_taken_over_when_its_heartbeat_has_stopped_for_long(tmp_path: Path) -> None:
    of_another_host(tmp_path, STALE_S - 10)
    with pytest.raises(ConfigError, match="process 7 on elsewhere"):
        RunLock(tmp_path).__enter__()
    of_another_host(tmp_path, STALE_S + 10)
    with RunLock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_clock_that_was_set_a_little_since_does_not_free_a_lock(tmp_path: Path) -> None:
    first = holder(tmp_path)
    try:
        name = json.loads((tmp_path / LOCK).read_text())
        for seconds, alive in ((1.0, True), (-1.0, True), (60.0, False)):
            assert is_alive({**name, "started": name["started"] + seconds}) is alive
    finally:
        first.kill()
        first.communicate()


def test_a_sign_of_life_that_the_disk_refuses_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.storage.run_lock.HEARTBEAT_S", 0.05)
    touch, asked = os.utime, list[Path]()

    def refuse_first(path: Path) -> None:
        asked.append(path)
        if len(asked) == 1:
            raise OSError(5, "Input/output error")
        touch(path)

    monkeypatch.setattr("actors.storage.run_lock.os.utime", refuse_first)
    with RunLock(tmp_path):
        before = (tmp_path / LOCK).stat().st_mtime_ns
        time.sleep(0.5)
        assert len(asked) > 1 and (tmp_path / LOCK).stat().st_mtime_ns > before


def test_of_several_that_take_over_one_does(tmp_path: Path) -> None:
    of_another_host(tmp_path, STALE_S + 10)
    start = time.time() + 6
    code = (
        f"time.sleep({start} - time.time())\nwith RunLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(3)"
    )
    ended = [process.communicate() for process in [python(code, tmp_path) for _ in range(4)]]
    assert sorted(output for output, _ in ended) == ["", "", "", "held\n"]
    assert sum("ConfigError" in error for _, error in ended) == 3


def test_a_driver_whose_lock_was_taken_ends_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.storage.run_lock.HEARTBEAT_S", 0.05)
    ended: list[int] = []
    old = signal.signal(signal.SIGTERM, lambda signum, frame: ended.append(signum))
    try:
        with RunLock(tmp_path):
            before = (tmp_path / LOCK).stat().st_mtime_ns
            time.sleep(0.3)
            assert (tmp_path / LOCK).stat().st_mtime_ns > before, "a sign of life"
            lock = of_another_host(tmp_path, 0)
            time.sleep(0.5)
        assert ended == [signal.SIGTERM]
        assert lock.exists(), "it is another's now"
    finally:
        signal.signal(signal.SIGTERM, old)

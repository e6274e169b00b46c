from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.storage.object_store import Location
from actors.storage.paths import content_of, create, modified, remove, sizes
from actors.storage.run_lock import LOCK, STALE_S, RunLock, is_alive
from tangoflux.errors import ConfigError, ResourceError

HOLDER = """\
import sys, time
from actors.storage.object_store import parse_path
from actors.storage.run_lock import RunLock
lock = RunLock(parse_path(sys.argv[1]))
"""
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(params=["disk", "bucket"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return tmp_path if request.param == "disk" else request.getfixturevalue("bucket_dir")


def python(code: str, directory: Location) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-c", HOLDER + code, str(directory)], subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def holder(directory: Location) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    process = python("with lock: print('held', flush=True); time.sleep(60)", directory)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def of_another_host(directory: Location) -> Location:
    identity = {"host": "elsewhere", "processes": "theirs", "pid": 7, "started": 1.0, "since": "2026-01-01"}
    file = directory / LOCK / "00000001"
    assert create(file, json.dumps(identity).encode())
    return file


def holding_pid(directory: Location) -> int:
    return json.loads(content_of(directory / LOCK / max(sizes(directory / LOCK))) or b"")["pid"]


def test_the_second_process_is_refused_with_the_name_of_the_first(directory: Location) -> None:
    first = holder(directory)
    try:
        with pytest.raises(ConfigError, match=rf"is in use: process {first.pid} on host \S+ .* since \d{{4}}-"):
            RunLock(directory).__enter__()
    finally:
        first.kill()
        first.communicate()


def test_a_lock_ends_with_its_block_and_is_replaced_at_once_after_a_sigkill(directory: Location) -> None:
    with RunLock(directory):
        assert holding_pid(directory) == os.getpid()
    assert not sizes(directory)
    if isinstance(directory, Path):
        assert not list(directory.iterdir())
    first = holder(directory)
    first.kill()
    first.communicate()
    with RunLock(directory):
        assert holding_pid(directory) == os.getpid()
    assert not sizes(directory)


def test_another_hosts_lock_is_replaced_when_its_heartbeat_has_stopped_for_long(
    directory: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_another_host(directory)
    with pytest.raises(ConfigError, match="process 7 on host elsewhere"):
        RunLock(directory).__enter__()
    monkeypatch.setattr("actors.storage.run_lock.STALE_S", 0.5)
    time.sleep(1.5)
    with RunLock(directory):
        assert holding_pid(directory) == os.getpid()
    assert STALE_S == 60


def test_a_process_of_another_container_with_the_same_host_name_is_not_taken_for_dead(directory: Location) -> None:
    with RunLock(directory):
        identity = json.loads(content_of(directory / LOCK / "00000001") or b"")
    boot, namespace = identity["processes"].split(" ", 1)
    for processes in (f"{boot} pid:[1]", f"another-boot {namespace}"):
        file = directory / LOCK / "00000001"
        assert create(file, json.dumps({**identity, "processes": processes, "pid": 2**22 + 1}).encode())
        with pytest.raises(ConfigError, match=f"is in use: process {2**22 + 1} on host {identity['host']}"):
            RunLock(directory).__enter__()
        remove(file)


def test_whether_it_is_free_is_seen_without_taking_it(tmp_path: Path) -> None:
    missing = tmp_path / "not" / "made"
    RunLock(missing).check_free()
    assert not missing.parent.exists()
    of_another_host(tmp_path)
    with pytest.raises(ConfigError, match="process 7 on host elsewhere"):
        RunLock(tmp_path).check_free()


def test_the_storages_clock_decides_and_not_the_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_another_host(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 1e12)
    with pytest.raises(ConfigError, match="process 7 on host elsewhere"):
        RunLock(tmp_path).__enter__()
    os.utime(tmp_path / LOCK / "00000001", (0, 0))
    with RunLock(tmp_path):
        pass


def test_a_lock_whose_process_was_killed_while_it_wrote_it_is_replaced_when_it_is_old(tmp_path: Path) -> None:
    assert create(tmp_path / LOCK / "00000001", b"")
    with pytest.raises(ConfigError, match="is in use: process 0 on host unknown"):
        RunLock(tmp_path).__enter__()
    os.utime(tmp_path / LOCK / "00000001", (0, 0))
    with RunLock(tmp_path):
        assert holding_pid(tmp_path) == os.getpid()


def test_a_clock_that_was_set_a_little_since_does_not_free_a_lock(tmp_path: Path) -> None:
    first = holder(tmp_path)
    try:
        identity = json.loads((tmp_path / LOCK / "00000001").read_text())
        for seconds, alive in ((1.0, True), (-1.0, True), (60.0, False)):
            assert is_alive({**identity, "started": identity["started"] + seconds}) is alive
    finally:
        first.kill()
        first.communicate()


def test_a_heartbeat_that_the_disk_refuses_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.storage.run_lock.HEARTBEAT_S", 0.05)
    touch, asked = os.utime, list[Path]()

    def refuse_first(path: Path) -> None:
        asked.append(path)
        if len(asked) == 1:
            raise OSError(5, "Input/output error")
        touch(path)

    monkeypatch.setattr("actors.storage.run_lock.os.utime", refuse_first)
    with RunLock(tmp_path):
        before = modified(tmp_path / LOCK / "00000001")
        time.sleep(0.5)
        assert len(asked) > 1 and modified(tmp_path / LOCK / "00000001") > before


def test_of_several_that_replace_a_lock_one_does(directory: Location) -> None:
    first = holder(directory)
    first.kill()
    first.communicate()
    code = "print('ready', flush=True); input()\nwith lock: print('held', flush=True); input()"
    others = [python(code, directory) for _ in range(4)]
    for process in others:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in others:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    deadline = time.monotonic() + 60
    while sum(process.poll() is not None for process in others) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    ended = [process.communicate("\n") for process in others]
    assert sorted(output for output, _ in ended) == ["", "", "", "held\n"]
    assert sum("ConfigError" in error for _, error in ended) == 3


def test_a_process_whose_lock_was_replaced_says_so_and_ends_itself(
    directory: Location, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("actors.storage.run_lock.HEARTBEAT_S", 0.1)
    ended: list[int] = []
    old = signal.signal(signal.SIGTERM, lambda signum, frame: ended.append(signum))
    try:
        with RunLock(directory):
            before = modified(directory / LOCK / "00000001")
            time.sleep(1.5)
            assert not ended
            assert modified(directory / LOCK / "00000001") > before, "a heartbeat"
            assert create(directory / LOCK / "00000002", b"{}")
            time.sleep(0.7)
        assert ended == [signal.SIGTERM]
        assert f"another process has taken {directory} over" in caplog.text
        assert "00000002" in sizes(directory / LOCK), "another process holds it now"
    finally:
        signal.signal(signal.SIGTERM, old)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file in the way")
    with pytest.raises(ResourceError, match=r"run/\.lock/00000001 cannot be written"):
        RunLock(tmp_path / "run").__enter__()


@pytest.mark.parametrize("content", ["", "4711\n", "{}"])
def test_a_lock_file_of_another_program_is_told_at_the_start(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK).write_text(content)
    with pytest.raises(ConfigError, match=r"\.lock is a file of another program: remove it, or choose another dir"):
        RunLock(tmp_path).check_free()
    assert (tmp_path / LOCK).read_text() == content

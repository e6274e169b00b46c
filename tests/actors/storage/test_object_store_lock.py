from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from actors.storage import object_store_lock as place_lock
from actors.storage.object_store import ObjectStorePath
from actors.storage.object_store_lock import ObjectStoreLock
from actors.storage.run_lock import LOCK, STALE_S
from tangoflux.errors import ConfigError
from tests.actors.storage.test_run_lock import REPOSITORY

HOLDER = """\
import sys, time
from actors.storage.object_store import ObjectStorePath
from actors.storage.object_store_lock import ObjectStoreLock
"""


def python(code: str, bucket_dir: ObjectStorePath) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER + code, bucket_dir.uri]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def of_another_host(bucket_dir: ObjectStorePath) -> None:
    name = {"host": "elsewhere", "pid": 7, "started": 1.0, "since": "2026-01-01"}
    assert (bucket_dir / LOCK / "00000001").create(json.dumps(name).encode())


def test_the_second_driver_is_refused_and_a_killed_ones_lock_is_taken_over_at_once(bucket_dir: ObjectStorePath) -> None:
    first = python(
        "with ObjectStoreLock(ObjectStorePath(sys.argv[1])): print('held', flush=True); time.sleep(60)", bucket_dir
    )
    assert first.stdout and first.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=rf"is in use: process {first.pid} on \S+ works there since \d{{4}}-"):
        ObjectStoreLock(bucket_dir).__enter__()
    first.kill()
    first.communicate()
    with ObjectStoreLock(bucket_dir):
        assert json.loads((bucket_dir / LOCK / "00000002").get())["pid"] == os.getpid()
    assert bucket_dir.sizes() == {}


def test_another_hosts_lock_is_taken_over_when_its_heartbeat_has_stopped_for_long(
    bucket_dir: ObjectStorePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_another_host(bucket_dir)
    with pytest.raises(ConfigError, match="process 7 on elsewhere"):
        ObjectStoreLock(bucket_dir).__enter__()
    monkeypatch.setattr(place_lock, "STALE_S", 0.5)
    time.sleep(1.5)
    with ObjectStoreLock(bucket_dir):
        assert "00000002" in (bucket_dir / LOCK).sizes()
    assert STALE_S == 60


def test_of_several_that_take_over_one_does(bucket_dir: ObjectStorePath) -> None:
    first = python("ObjectStoreLock(ObjectStorePath(sys.argv[1])).__enter__()", bucket_dir)
    first.communicate()
    code = (
        f"time.sleep({time.time() + 6} - time.time())\n"
        "with ObjectStoreLock(ObjectStorePath(sys.argv[1])): print('held', flush=True); time.sleep(3)"
    )
    ended = [process.communicate() for process in [python(code, bucket_dir) for _ in range(4)]]
    assert sorted(output for output, _ in ended) == ["", "", "", "held\n"]
    assert sum("ConfigError" in error for _, error in ended) == 3


def test_a_driver_whose_lock_was_taken_ends_itself(
    bucket_dir: ObjectStorePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place_lock, "HEARTBEAT_S", 0.1)
    ended: list[int] = []
    old = signal.signal(signal.SIGTERM, lambda signum, frame: ended.append(signum))
    try:
        with ObjectStoreLock(bucket_dir):
            time.sleep(0.5)
            assert not ended
            assert (bucket_dir / LOCK / "00000002").create(b"{}")
            time.sleep(0.7)
        assert ended == [signal.SIGTERM]
        assert "00000002" in (bucket_dir / LOCK).sizes(), "it is another's now"
    finally:
        signal.signal(signal.SIGTERM, old)

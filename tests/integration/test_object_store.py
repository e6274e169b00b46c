"""A whole run of jobs/crpo.py in an object store: killed, resumed, and the same as on a disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from actors.storage.object_store import ObjectStorePath
from actors.storage.policy_store import PolicyStore
from actors.storage.shards import shards_at
from jobs.crpo import main
from jobs.reporting.comparison import comparison
from tangoflux.data.records import canonical_sha256
from tests.integration.test_crpo import REPOSITORY, before_close, options
from tests.integration.test_crpo import prompts as prompts

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_run_in_an_object_store_is_killed_resumed_and_equal_to_one_on_a_disk(
    tiny_policy_dir: Path, prompts: Path, bucket_dir: ObjectStorePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    command = [
        sys.executable,
        "jobs/crpo.py",
        *options(tiny_policy_dir, prompts, Path("run"), "--run-dir", str(bucket_dir)),
    ]
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
        while not any(name.startswith("rollouts/i0001/.manifest/") for name in bucket_dir.sizes()):
            assert driver.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    assert main([*options(tiny_policy_dir, prompts, Path("run")), "--run-dir", str(bucket_dir), "--resume"]) == 0
    assert main(options(tiny_policy_dir, prompts, tmp_path / "local")) == 0
    for part in ("rollouts", "preferences"):
        stored, local = (
            shards_at(root / part / "i0001").read(verify=True) for root in (bucket_dir, tmp_path / "local")
        )
        assert canonical_sha256(stored) == canonical_sha256(local)
    assert PolicyStore(bucket_dir / "policies").versions() == [0, 1]
    stored, local = PolicyStore(bucket_dir / "policies").local(1), tmp_path / "local" / "policies" / "v0001"
    weights = [load_file(directory / "tangoflux.safetensors") for directory in (stored, local)]
    assert all(weights[0][key].equal(value) for key, value in weights[1].items())
    assert (bucket_dir / "report.html").size() and not (bucket_dir / "learner/i0001/checkpoints").sizes()
    assert "local" in comparison([bucket_dir, tmp_path / "local"])


def test_a_run_in_an_object_store_goes_on_where_only_the_end_of_an_iteration_is_lacking(
    ray_session: None,
    tiny_policy_dir: Path,
    prompts: Path,
    bucket_dir: ObjectStorePath,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    two = ("--run-dir", str(bucket_dir), "--iterations", "2", "--keep-policies", "1", "--judge", "none")
    assert main(options(tiny_policy_dir, prompts, Path("run"), *two)) == 0
    before = bucket_dir.sizes()
    (bucket_dir / "metrics.jsonl").put(before_close((bucket_dir / "metrics.jsonl").get().decode(), 2).encode())
    for name in bucket_dir.sizes():
        if name.startswith("heldout") and "00002" in name:
            (bucket_dir / name).delete()
    assert main(["--run-dir", str(bucket_dir), "--resume"]) == 0
    assert {name for name in bucket_dir.sizes() if name.startswith(("rollouts/", "policies/", "heldout/"))} == {
        name for name in before if name.startswith(("rollouts/", "policies/", "heldout/"))
    }

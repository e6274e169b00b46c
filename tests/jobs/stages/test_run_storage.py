from __future__ import annotations

from pathlib import Path

import pytest

from actors.storage.object_store import ObjectStorePath
from jobs.options.crpo import load_config
from jobs.stages.retention import drop_old
from jobs.stages.run_storage import open_run
from tangoflux.errors import ConfigError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_local_run_lives_in_its_directory_alone(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        assert run.root == run.local == tmp_path / "run"
        assert run.policies.location == tmp_path / "run" / "policies"
        assert run.rollouts(3) == tmp_path / "run" / "rollouts" / "i0003"
        run.push()
    assert not (tmp_path / "cache").exists()


def test_what_was_pushed_is_there_again_on_the_next_start(
    bucket_dir: ObjectStorePath, tmp_path: Path, tiny_policy_dir: Path
) -> None:
    with open_run(bucket_dir) as run:
        assert run.local != tmp_path
        for version in range(4):
            run.policies.publish(version, tiny_policy_dir)
        (run.local / "metrics.jsonl").write_text("one\n")
        (run.local / "gone").write_text("soon")
        run.push()
        (run.local / "metrics.jsonl").write_text("one\ntwo\n")
        (run.local / "gone").unlink()
        run.push()
        with pytest.raises(ConfigError, match="is in use: process"), open_run(bucket_dir):
            pass
    assert not run.local.exists()
    (bucket_dir / "rollouts/i0001/part-00000.parquet").put(b"large")
    (bucket_dir / "rollouts/i0001/.failed_chunks.json").put(b"[]")
    with open_run(bucket_dir) as run:
        assert (run.local / "metrics.jsonl").read_text() == "one\ntwo\n"
        assert not (run.local / "gone").exists()
        assert run.policies.versions() == [0, 1, 2, 3] and not (run.local / "policies").exists()
        assert [path.name for path in (run.local / "rollouts" / "i0001").iterdir()] == [".failed_chunks.json"]
        run.push()
    assert "rollouts/i0001/part-00000.parquet" in bucket_dir.sizes()
    assert "gone" not in bucket_dir.sizes()


def test_old_policies_are_dropped_from_the_store_too(bucket_dir: ObjectStorePath, tiny_policy_dir: Path) -> None:
    with open_run(bucket_dir) as run:
        for version in range(4):
            run.policies.publish(version, tiny_policy_dir)
        run.push()
        drop_old(load_config(["--keep-policies", "1"]), run, [1, 2, 3], 3)
        run.push()
    kept = {name.split("/")[0] for name in (bucket_dir / "policies").sizes()}
    assert kept == {"v0000", "v0000.json", "v0003", "v0003.json", "latest.json"}

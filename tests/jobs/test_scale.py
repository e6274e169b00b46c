from __future__ import annotations

from pathlib import Path

import pytest

from actors.pools.status import PoolStatus
from jobs.scale import main, table
from tangoflux.errors import ConfigError


def test_a_run_that_is_not_live_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run is live in .* \(there is no pools.json\)"):
        main(["--run-dir", str(tmp_path)])


def test_a_run_whose_driver_was_killed_is_not_live(tmp_path: Path) -> None:
    (tmp_path / "pools.json").write_text('{"address": "127.0.0.1:9", "controller": "pools-0", "auth_mode": ""}\n')
    with pytest.raises(ConfigError, match="its driver is gone; continue it with --resume"):
        main(["--run-dir", str(tmp_path)])


def test_a_number_of_workers_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--rollout-workers is 0: it must be a number of at least 1, or a range"):
        main(["--run-dir", str(tmp_path), "--rollout-workers", "0"])


def test_the_table_has_a_line_for_each_pool() -> None:
    counts = {
        "target": 2,
        "ready": 1,
        "pending": 1,
        "busy": 1,
        "queued": 0,
        "deaths": 0,
        "retried": 3,
        "failed": 0,
        "done": 32,
    }
    pool = PoolStatus("1:4", **counts, per_second=1.5, idle_share=0.25)
    header, *lines = table({"rollouts": pool, "rewards": pool}).splitlines()
    assert header.split()[:3] == ["pool", "size", "target"]
    assert [line.split() for line in lines] == [
        [name, "1:4", "2", "1", "1", "1", "0", "3", "32", "1.50", "25%"] for name in ("rollouts", "rewards")
    ]

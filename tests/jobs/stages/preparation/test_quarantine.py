from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.stages.preparation.quarantine import Quarantine
from tangoflux.errors import DataError


def row(number: int, reason: str = "missing") -> dict[str, Any]:
    return {"id": f"c{number}", "source": "a.wav", "reason": reason, "detail": "", "row": number, "part": number // 10}


def test_rows_are_kept_in_the_manifests_order_at_the_end(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", ())
    quarantine.add([row(12), row(15)])
    quarantine.add([row(3)])
    quarantine.sort()
    lines = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [row(3), row(12), row(15)]


def test_rows_without_their_shard_are_forgotten(tmp_path: Path) -> None:
    Quarantine(tmp_path / "quarantine.jsonl", ()).add([row(3), row(12)])
    assert Quarantine(tmp_path / "quarantine.jsonl", {1}).rows == [row(12)]
    assert Quarantine(tmp_path / "quarantine.jsonl", {0, 1}).rows == [row(12)]


def test_too_large_a_share_stops_with_the_commonest_reason(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", ())
    quarantine.add([row(1, "silent"), *(row(number) for number in range(10))])
    quarantine.check(done=99, total=1000, max_share=0.1)
    quarantine.check(done=110, total=1000, max_share=0.1)
    for done, total in ((100, 1000), (50, 50)):
        with pytest.raises(DataError, match=rf"11 of {done} clips .* 0.1; most often \(10\): missing, see .*\.jsonl"):
            quarantine.check(done, total, max_share=0.1)

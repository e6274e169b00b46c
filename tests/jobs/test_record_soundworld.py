from __future__ import annotations

from pathlib import Path

import pytest

from jobs.record_soundworld import main
from tangoflux.errors import ConfigError


def test_recordings_are_written_with_their_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path / "new"), "--num-clips", "2"]) == 0
    manifest = tmp_path / "new" / "manifest.jsonl"
    assert capsys.readouterr().out == f"{manifest}\n"
    assert len(manifest.read_text().splitlines()) == 2


def test_a_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="is not empty"):
        main(["--output", str(tmp_path)])

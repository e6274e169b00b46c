from __future__ import annotations

import json
from pathlib import Path

import soundfile

from tangoflux.soundworld.captions import parse
from tangoflux.soundworld.recordings import write_recordings
from tangoflux.soundworld.scenes import split_of


def test_a_recording_depends_on_seed_and_place_only(tmp_path: Path) -> None:
    few, many, other = (tmp_path / name for name in ("few", "many", "other"))
    write_recordings(few, 2, seed=0)
    write_recordings(many, 3, seed=0)
    write_recordings(other, 2, seed=1)
    lines = (few / "manifest.jsonl").read_text().splitlines()
    assert (many / "manifest.jsonl").read_text().splitlines()[:2] == lines
    first = [(folder / "audio" / "000001.flac").read_bytes() for folder in (few, many, other)]
    assert first[0] == first[1] != first[2]


def test_the_manifest_names_audible_files_with_captions_of_training_scenes(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in write_recordings(tmp_path, 20, seed=0).read_text().splitlines()]
    for row in rows:
        audio, rate = soundfile.read(tmp_path / row["audio"])
        assert rate == 16_000 and 1 <= len(audio) / rate <= 4 and abs(audio).max() > 0.05
        contents = [parse(caption) for caption in row["captions"]]
        assert len(contents) == 8 and all(contents)
        assert "train" in {split_of(event.kind for event in content.events) for content in contents if content}

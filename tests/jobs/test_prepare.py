"""jobs/prepare.py with a random tiny codec: real files, real Ray."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from actors.learner.clips import ClipData
from actors.storage.run_lock import RunLock
from actors.storage.shards import ShardWriter
from jobs.prepare import main
from tangoflux.data.records import latent_schema
from tangoflux.errors import CheckpointError, ConfigError, DataError, ResourceError
from tests.tangoflux.data.made_audio import encoded, mp3, noise, wav, written

REPOSITORY = Path(__file__).resolve().parents[2]
RATES = (8_000, 44_100, 48_000)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips in all formats, rates and channels, of 0.5 to 6 s; number 2 is silent, 5 has no caption."""
    folder = tmp_path_factory.mktemp("mine")
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for number in range(12):
        name = f"{number}.{('wav', 'flac', 'mp3', 'ogg')[number % 4]}"
        rate = RATES[number % 3]
        samples = rng.normal(0, 0.0 if number == 2 else 0.1, (round(rate * (number + 1) / 2), 1 + number % 2))
        soundfile.write(folder / name, samples, rate)
        rows.append({"audio": name, "caption": "" if number == 5 else f"noise {number}", "id": f"n{number}"})
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "clips.jsonl"


def options(policy: Path, manifest: Path, output: Path, *more: object) -> list[str]:
    values = {
        "--policy": policy,
        "--manifest": manifest,
        "--output": output,
        "--shard-clips": 4,
        "--codec-batch-clips": 2,
        "--max-quarantined-share": 0.2,
    }
    return [str(part) for part in (*(part for pair in values.items() for part in pair), *more)]


@pytest.fixture(scope="module")
def finished(
    ray_session: None, tiny_policy_dir: Path, manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "a"
    assert main(options(tiny_policy_dir, manifest, output)) == 0
    return output


@pytest.mark.ray
def test_a_manifest_becomes_shards_of_latents(finished: Path) -> None:
    shards = ShardWriter(finished / "latents")
    assert [shard.rows for shard in shards.shards().values()] == [3, 3, 4]
    table = shards.read(verify=True)
    assert table.schema.equals(latent_schema(63, 8), check_metadata=False)
    usable = [number for number in range(12) if number not in (2, 5)]
    assert table["id"].to_pylist() == [f"n{number}" for number in usable]
    assert table["captions"].to_pylist() == [[f"noise {number}"] for number in usable]
    durations = [min(4.0, (number + 1) / 2) for number in usable]
    np.testing.assert_allclose(table["duration_s"].to_numpy(), durations, atol=0.06)
    assert table["start_s"].to_pylist()[-1] == pytest.approx(1.0), "6 s are cut to the middle 4"
    assert len(ClipData(finished / "latents")) == 10


@pytest.mark.ray
def test_the_quarantine_says_why(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["id"], row["source"], row["reason"]) for row in rows] == [
        ("n2", "2.mp3", "silent"),
        ("n5", "5.flac", "empty caption"),
    ]


@pytest.mark.ray
def test_prepared_json_says_what_the_latents_depend_on(finished: Path) -> None:
    prepared = json.loads((finished / "prepared.json").read_text())
    assert (prepared["clips"], prepared["quarantined"]) == (10, {"silent": 1, "empty caption": 1})
    assert prepared["hours"] == pytest.approx(29.5 / 3600, abs=1e-4)
    sizes = ("latent_frames", "max_frames", "channels", "sample_rate_hz", "max_duration_s", "latents_dtype")
    assert [prepared[name] for name in sizes] == ["duration", 63, 8, 16_000, 4, "float32"]
    assert len(prepared["codec_sha256"]) == len(prepared["manifest_sha256"]) == 64


@pytest.mark.ray
def test_the_same_command_does_what_is_missing_and_workers_change_nothing(
    finished: Path, tiny_policy_dir: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "again"
    shutil.copytree(finished, output)
    (output / "latents" / "part-00000.parquet").unlink()
    (output / "prepared.json").unlink()
    kept = (output / "latents" / "part-00001.parquet").stat().st_mtime_ns
    assert main(options(tiny_policy_dir, manifest, output, "--codec-workers", 2, "--codec-num-cpus", 0.5)) == 0
    said = capsys.readouterr().out
    assert "preparing · done" in said and "10 clips, 0.01 h of audio" in said
    assert "quarantined: 1 silent, 1 empty caption" in said
    assert (output / "latents" / "part-00001.parquet").stat().st_mtime_ns == kept
    for name in ("latents/part-00000.parquet", "latents/part-00002.parquet", "quarantine.jsonl", "prepared.json"):
        assert (output / name).read_bytes() == (finished / name).read_bytes(), name
    assert main(options(tiny_policy_dir, manifest, output)) == 0
    assert "preparing" not in capsys.readouterr().out, "all is there"


@pytest.mark.ray
def test_other_settings_for_the_same_directory_are_refused(
    finished: Path, tiny_policy_dir: Path, manifest: Path
) -> None:
    with pytest.raises(ConfigError, match="other settings: latents_dtype is 'float32' there and 'float16' now; choose"):
        main(options(tiny_policy_dir, manifest, finished, "--latents-dtype", "float16"))
    other = manifest.with_name("other.jsonl")
    other.write_text(manifest.read_text().replace("noise 11", "noise eleven"))
    with pytest.raises(ConfigError, match="manifest_sha256 is"):
        main(options(tiny_policy_dir, other, finished))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_what_was_prepared_stays_when_too_much_is_quarantined(
    tiny_policy_dir: Path, manifest: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"2 of 12 clips are quarantined, more than --max-quarantined-share 0.1"):
        main(options(tiny_policy_dir, manifest, tmp_path / "a", "--max-quarantined-share", 0.1))
    assert len(ShardWriter(tmp_path / "a" / "latents").parts()) == 3
    assert not (tmp_path / "a" / "prepared.json").exists()
    assert main(options(tiny_policy_dir, manifest, tmp_path / "a")) == 0


def test_a_folder_of_another_format_is_told_before_anything_starts(tiny_policy_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("youtube_id,start_time,caption\nabc,0,Rain\ndef,10,Wind\n")
    for name in ("Yabc.m4a", "Ydef.webm"):
        (tmp_path / name).touch()
    said = r"2 of the 2 clips .* cannot be used, such as abc_0: found as \.m4a, convert it to \.flac or \.wav"
    with pytest.raises(DataError, match=said):
        main(options(tiny_policy_dir, tmp_path / "train.csv", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (("--audio-dir", "nowhere"), DataError, "12 of the 12 audio files .* are missing, such as .*nowhere/0.wav"),
        (("--policy", "nowhere"), CheckpointError, "nowhere is not a model directory"),
        (("--manifest", "nowhere.csv"), DataError, "nowhere.csv: no such manifest"),
        (("--format", "audiocaps"), DataError, "has the columns audio, caption, id; expected youtube_id and"),
        (("--format", "mp3"), ConfigError, "--format is mp3: it must be one of auto, manifest, audiocaps, wavcaps"),
        (("--shard-clips", 0), ConfigError, "--shard-clips is 0: it must be"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tiny_policy_dir: Path,
    manifest: Path,
    tmp_path: Path,
    more: tuple[object, ...],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        main(options(tiny_policy_dir, manifest, tmp_path / "a", *more))
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_noticed_first(
    tiny_policy_dir: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.capacity.plan.shutil.disk_usage", lambda place: SimpleNamespace(free=30_000))  # pyright: ignore
    with pytest.raises(
        ResourceError, match=r"needs 10\d kB of disk, but 30 kB are free at .*: choose another --output"
    ):
        main(options(tiny_policy_dir, manifest, tmp_path / "a"))
    assert not list(tmp_path.iterdir())


def test_two_at_once_in_one_directory_are_refused(tmp_path: Path, tiny_policy_dir: Path, manifest: Path) -> None:
    with RunLock(tmp_path), pytest.raises(ConfigError, match=r"is in use: process \d+ on "):
        main(options(tiny_policy_dir, manifest, tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path, tiny_policy_dir: Path, manifest: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="is not empty; choose another --output"):
        main(options(tiny_policy_dir, manifest, tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def floats(sample: float) -> bytes:
    """A WAV file of three seconds, all samples the same."""
    file = io.BytesIO()
    soundfile.write(file, np.full(48_000, sample, np.float32), 16_000, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_no_clip_ends_the_job_and_what_is_whole_is_used(
    tiny_policy_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A published set says 3 s of each; the names of the files are what is expected of them."""
    files = {
        "used.raw": wav(samples=40_000),
        "used.wav": wav(0xFFFF_FFFF, 0xFFFF_FFFF, samples=48_000),
        "used.flac": encoded("flac", "flac", noise(3.0, 16_000), 16_000, to_pipe=True),
        "used.mp3": mp3(3.0, xing=False),
        "used-odd.wav": wav(rate=11_127, samples=33_381),
        "truncated.wav": wav(samples=48_000)[:-2],
        "truncated.flac": written("FLAC", 3.0)[:-100],
        "truncated.mp3": mp3(3.0)[:-100],
        "truncated.ogg": written("OGG", 3.0)[:-100],
        "unreadable.raw": b"no audio",
        "unreadable.vox": b"no audio" * 50,
        "unreadable.wav": wav(rate=0),
        "extreme rate.wav": wav(rate=2_000_000_000),
        "not scaled.wav": floats(32_767.0),
        "not finite.wav": floats(np.inf),
        "too short.wav": wav(samples=24_000),
        "too short.flac": written("FLAC", 1 / 16_000),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "missing.wav").symlink_to(tmp_path / "nowhere")
    names = [*files, "missing.wav"]
    durations = {"too short.flac": None}
    rows = [{"audio": n, "caption": "a", "duration": durations.get(n, 3), "id": n} for n in names]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    more = ("--max-quarantined-share", 0.9)
    assert main(options(tiny_policy_dir, tmp_path / "m.jsonl", tmp_path / "out", *more)) == 0
    table = ShardWriter(tmp_path / "out" / "latents").read()
    used = [name for name in names if name.startswith("used")]
    assert table["id"].to_pylist() == used
    np.testing.assert_allclose(table["duration_s"].to_numpy(), [2.5, 3.0, 3.0, 3.0, 3.0], atol=0.01)
    quarantine = map(json.loads, (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines())
    assert [row["reason"] for row in quarantine] == [Path(name).stem for name in names if name not in used]
    said = capfd.readouterr()
    assert "used although their files are shorter than the manifest says: 1" in said.out
    assert "Traceback" not in said.out + said.err


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_audio_embedded_in_parquet_gives_the_latents_of_its_files(
    finished: Path, tiny_policy_dir: Path, manifest: Path, tmp_path: Path
) -> None:
    """Two files, as in Hugging Face's data sets; row 1 has no bytes but a path, and the last ones are unusable."""
    audio: list[dict[str, object]] = []
    for line in manifest.read_text().splitlines():
        name = json.loads(line)["audio"]
        audio.append({"bytes": (manifest.parent / name).read_bytes(), "path": f"elsewhere/{name}"})
    audio[1] = {"bytes": None, "path": "1.flac"}
    captions = ["" if number == 5 else f"noise {number}" for number in range(len(audio))]
    bad = [{"bytes": wav()[:-2], "path": "cut.wav"}, {"bytes": b"no", "path": None}, {"bytes": None, "path": None}]
    table = pa.table({"audio": [*audio, *bad], "caption": [*captions, "x", "y", "z"]})
    (folder := tmp_path / "data").mkdir()
    files = [folder / f"train-0000{number}-of-00002.parquet" for number in range(2)]
    for file, part in zip(files, (table[:10], table[10:]), strict=True):
        pq.write_table(part, file, row_group_size=5)
    more = ("--audio-dir", manifest.parent, "--max-quarantined-share", 0.5)
    assert main(options(tiny_policy_dir, folder, tmp_path / "out", *more)) == 0
    rows, expected = (ShardWriter(folder / "latents").read() for folder in (tmp_path / "out", finished))
    names = ["captions", "duration_s", "start_s", "mean", "scale"]
    assert rows.select(names).equals(expected.select(names))
    assert rows["id"].to_pylist()[:2] == ["c0000001", "c0000002"]
    lines = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    found = [(row["source"], row["reason"], row["detail"]) for row in map(json.loads, lines)][2:]
    assert found == [
        ("cut.wav", "truncated", f"{files[1]}, row 3 ends before its header says, or its stream does"),
        (f"{files[1]}, row 4", "unreadable", f"{files[1]}, row 4 cannot be read as audio: Format not recognised."),
        (f"{files[1]}, row 5", "missing", f"{files[1]}, row 5 has neither audio nor a path"),
    ]


@pytest.mark.slow
@pytest.mark.ray
def test_the_job_starts_its_own_ray_and_is_quiet(tiny_policy_dir: Path, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(
        "audiocap_id,youtube_id,start_time,caption\n1,0,30,noise\n2,0,30,hiss\n3,1,0,a tone\n"
    )
    command = [sys.executable, "jobs/prepare.py", "--audio-dir", str(manifest.parent)]
    command += ["--manifest", str(tmp_path / "test.csv"), "--output", str(tmp_path / "a")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.run(
        [*command, "--policy", str(tiny_policy_dir), "--codec-workers", "2"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert (process.returncode, process.stderr) == (0, "")
    table = ShardWriter(tmp_path / "a" / "latents").read()
    assert table["id"].to_pylist() == ["0_30", "1_0"]
    assert table["captions"].to_pylist() == [["noise", "hiss"], ["a tone"]]

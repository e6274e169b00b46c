"""Decoding and a real codec, without Ray and on Ray Data with two CPUs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch

from actors.pools.worker_slot import WorkerError
from actors.workers.prepare import ClipEncoder, CodecFacts, Encoding, decode, encoded_clips
from tangoflux.data.manifest import Clip
from tangoflux.data.records import latents_array
from tangoflux.errors import ResourceError
from tangoflux.model.autoencoder import Autoencoder, AutoencoderConfig
from tangoflux.model.checkpoint import read_json
from tangoflux.model.policy import PolicyConfig

RATE = 16_000
ENCODING = Encoding(workers=1, num_cpus=1, num_gpus=0, threads=1, batch_clips=2, dtype="float32")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Five clips: 1, 1, 1.5 and 5 s long, and one without a file."""
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for name, samples in (("a", RATE), ("b", RATE), ("c", RATE * 3 // 2), ("long", 5 * RATE)):
        soundfile.write(folder / f"{name}.wav", rng.normal(0, 0.1, samples), RATE, subtype="FLOAT")
    names = ["a", "b", "absent", "c", "long"]
    return [Clip(name, f"{name}.wav", str(folder / f"{name}.wav"), (name,)) for name in names]


@pytest.fixture
def facts(tiny_policy_dir: Path) -> CodecFacts:
    policy = PolicyConfig.from_dict(read_json(tiny_policy_dir / "config.json"))
    return CodecFacts(policy, AutoencoderConfig.read(tiny_policy_dir))


def two_shards(clips: list[Clip]) -> list[list[tuple[int, Clip]]]:
    rows = list(enumerate(clips))
    return [rows[:3], rows[3:]]


def test_clips_become_the_codecs_posterior(clips: list[Clip], tiny_policy_dir: Path, facts: CodecFacts) -> None:
    """In this process; tests/jobs/test_prepare.py has the same on Ray."""
    rows = json.dumps([{"row": row, **asdict(clip)} for row, clip in enumerate(clips)])
    table = ClipEncoder(tiny_policy_dir, facts, ENCODING)(decode(pa.table({"clips": [rows]}), facts=facts))
    assert table["id"].to_pylist() == ["a", "b", "absent", "c", "long"]
    assert table["reason"].to_pylist() == [None, None, "missing", None, None]
    assert table["num_frames"].to_pylist() == [16, 16, 0, 24, 63]
    assert table["duration_s"].to_pylist() == [1.0, 1.0, 0.0, 1.5, 4.0]
    assert table["start_s"].to_pylist()[-1] == 0.5, "the middle of what is too long"
    codec = Autoencoder.load(tiny_policy_dir)
    samples, _ = soundfile.read(clips[-1].location, dtype="float32")
    with torch.no_grad():
        expected = codec.posterior(torch.from_numpy(samples[RATE // 2 :][: 4 * RATE])[None, None])
    for name, part in zip(("mean", "scale"), expected, strict=True):
        np.testing.assert_allclose(latents_array(table[name])[-1], part[0].numpy(), rtol=1e-4, atol=1e-5)
    assert (latents_array(table["scale"])[:2, :16] > 0).all() and not latents_array(table["mean"])[:2, 16:].any()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_worker_that_dies_is_replaced(
    clips: list[Clip], tiny_policy_dir: Path, facts: CodecFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [[(row, clips[0])] for row in range(24)]
    tables: Iterator[Any] = encoded_clips(many, tiny_policy_dir, facts, ENCODING)
    rows = next(tables)["row"].to_pylist()
    for process in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        if b"MapWorker(MapBatches(ClipEncoder))" in Path(f"/proc/{process}/cmdline").read_bytes():
            os.kill(process, signal.SIGKILL)
            break
    else:
        pytest.fail("no codec worker was found")
    rows += [row for table in tables for row in table["row"].to_pylist()]
    assert sorted(rows) == list(range(24))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_codec_that_cannot_be_loaded_is_one_line(clips: list[Clip], tmp_path: Path, facts: CodecFacts) -> None:
    with pytest.raises(WorkerError, match=r"codec worker: .*vae.safetensors is missing: is .* a model directory\?"):
        list(encoded_clips(two_shards(clips), tmp_path, facts, ENCODING))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("workers", "num_gpus", "message"),
    [
        (2, 0, r"1 x decoder \(1 CPU\) cannot be scheduled next to the other workers: .*; see --codec-workers"),
        (1, 1, r"1 x codec worker \(1 CPU, 1 GPU\) cannot be scheduled: no node has 1 GPU, .*--codec-num-gpus"),
    ],
)
def test_too_few_processors_are_an_error_and_no_endless_wait(
    clips: list[Clip], tiny_policy_dir: Path, facts: CodecFacts, workers: int, num_gpus: int, message: str
) -> None:
    encoding = Encoding(workers, 1, num_gpus, threads=1, batch_clips=2, dtype="float32")
    with pytest.raises(ResourceError, match=message):
        next(encoded_clips(two_shards(clips), tiny_policy_dir, facts, encoding))

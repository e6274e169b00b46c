"""Encodes the clips of a manifest with Ray Data: tasks decode the audio while actors encode it.

The unit of work is a batch of consecutive clips of the manifest. One task decodes it and one actor encodes it, so the
latents do not depend on the number of either.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from ray.exceptions import RayActorError

from actors.cluster.nodes import cluster_nodes, has_opaque_autoscaler
from actors.cluster.placement import Request, place
from actors.pools.worker_slot import WorkerError, first_line
from tangoflux.data.audio import AudioError, read_excerpt
from tangoflux.data.manifest import Clip
from tangoflux.data.parquet import embedded_audio
from tangoflux.data.records import LatentsDtype, build_table, latent_schema
from tangoflux.data.waveforms import fill_frames
from tangoflux.errors import ResourceError
from tangoflux.model.autoencoder import Autoencoder, AutoencoderConfig
from tangoflux.model.layout import num_frames
from tangoflux.model.policy import PolicyConfig

EXTRA_COLUMNS = [("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())]
"""Columns of encoded clips in addition to ``latent_schema``: row in the manifest, and why there are no latents."""

DECODING_CPUS = 1


@dataclass(frozen=True)
class CodecFacts:
    """The configurations that determine the shape of a clip's latents."""

    policy: PolicyConfig
    codec: AutoencoderConfig

    @property
    def clip_bytes(self) -> int:
        """Size of the longest waveform."""
        return round(4 * self.policy.max_duration * self.codec.sampling_rate * self.codec.audio_channels)


@dataclass(frozen=True)
class Encoding:
    """How clips are encoded; the first three attributes do not change the latents.

    Attributes:
        workers, num_cpus, num_gpus: number of actors, and what each requests from Ray.
        threads: CPU threads of an actor.
        batch_clips: clips of a batch.
        dtype: of the latents.
    """

    workers: int
    num_cpus: float
    num_gpus: float
    threads: int
    batch_clips: int
    dtype: LatentsDtype


def encoded_clips(
    shards: Sequence[Sequence[tuple[int, Clip]]], policy_dir: Path, facts: CodecFacts, encoding: Encoding
) -> Iterator[pa.Table]:
    """Decodes and encodes clips, and yields tables of them as they are done; Ray must be running.

    Args:
        shards: clips with their rows in the manifest; no batch spans two shards.
        policy_dir: contains the codec that ``facts`` describes.

    Yields:
        tables of ``latent_schema`` and ``EXTRA_COLUMNS``; clips without latents have a ``reason``.

    Raises:
        ResourceError: the cluster has too few processors.
        WorkerError: the codec cannot be loaded.
    """
    _check_resources(encoding)
    dataset = _dataset(shards, policy_dir, facts, encoding)
    tables = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    try:
        with _quiet_start():
            first = next(tables)
        yield first
        yield from tables
    except RayActorError as error:
        raise WorkerError(f"codec worker: {first_line(error)}") from error


def decode(batch: pa.Table, *, facts: CodecFacts) -> pa.Table:
    """Reads the audio of one batch, in a task.

    Args:
        batch: one row with ``clips``, a JSON list.

    Returns:
        one row with ``clips``, in which each clip now has all columns but the latents, and float32 ``waveforms``.
    """
    clips: list[dict[str, Any]] = []
    waveforms: list[bytes] = []
    for clip in json.loads(batch["clips"][0].as_py()):
        found, waveform = _decoded(clip, facts)
        clips.append(found)
        waveforms.append(waveform)
    audio = pa.array([waveforms], pa.list_(pa.large_binary()))
    return pa.table({"clips": pa.array([json.dumps(clips)], pa.large_string()), "waveforms": audio})


class ClipEncoder:
    """An actor that encodes batches; waveforms of equal length go through the codec together."""

    def __init__(self, policy_dir: Path, facts: CodecFacts, encoding: Encoding) -> None:
        """Loads the codec.

        Raises:
            CheckpointError: ``policy_dir`` contains none.
        """
        torch.set_num_threads(encoding.threads)
        self._codec = Autoencoder.load(policy_dir).to("cuda" if encoding.num_gpus else "cpu")
        channels = facts.codec.decoder_input_channels
        latents = latent_schema(facts.policy.audio_seq_len, channels, encoding.dtype)
        self._schema = pa.schema([*latents, *EXTRA_COLUMNS])
        self._none = np.zeros((0, channels), np.float32)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The encoded clips of a batch from ``decode``, in their order."""
        clips: list[dict[str, Any]] = json.loads(batch["clips"][0].as_py())
        posteriors = {"mean": [self._none] * len(clips), "scale": [self._none] * len(clips)}
        usable = [index for index, clip in enumerate(clips) if not clip["reason"]]
        waveforms = [self._waveform(batch["waveforms"][0][index]) for index in usable]
        for index, (mean, scale) in zip(usable, self._codec.posterior_rows(waveforms), strict=True):
            posteriors["mean"][index], posteriors["scale"][index] = mean, scale
        names = [name for name in self._schema.names if name not in posteriors]
        return build_table({**{name: [clip[name] for clip in clips] for name in names}, **posteriors}, self._schema)

    def _waveform(self, samples: Any) -> torch.Tensor:
        numbers = np.frombuffer(samples.as_buffer(), np.float32).copy()
        return torch.from_numpy(numbers.reshape(self._codec.audio_channels, -1))


def _dataset(
    shards: Sequence[Sequence[tuple[int, Clip]]], policy_dir: Path, facts: CodecFacts, encoding: Encoding
) -> ray.data.Dataset:
    blocks: list[Any] = [ray.put(_batches(shard, encoding.batch_clips)) for shard in shards]
    dataset = ray.data.from_arrow_refs(blocks)
    _configure(dataset.context, facts)
    decoded = dataset.map_batches(
        partial(decode, facts=facts),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=DECODING_CPUS,
        # Before and after resampling, and as bytes. Ray Data would fuse stages that request the same resources.
        memory=3 * encoding.batch_clips * facts.clip_bytes,
    )
    return decoded.map_batches(
        ClipEncoder,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_args=(policy_dir.resolve(), facts, encoding),
        compute=ray.data.ActorPoolStrategy(size=min(encoding.workers, len(shards))),
        num_cpus=encoding.num_cpus,
        num_gpus=encoding.num_gpus,
    )


def _batches(shard: Sequence[tuple[int, Clip]], size: int) -> pa.Table:
    """The batches of a shard, one per row."""
    rows = [{"row": row, **asdict(clip)} for row, clip in shard]
    return pa.table({"clips": [json.dumps(rows[start : start + size]) for start in range(0, len(rows), size)]})


def _decoded(clip: dict[str, Any], facts: CodecFacts) -> tuple[dict[str, Any], bytes]:
    """A clip's columns without the latents, and the waveform for the codec."""
    found = {name: clip[name] for name in ("row", "id", "captions", "source", "start_s")}
    found |= {"duration_s": 0.0, "num_frames": 0, "reason": None, "detail": None}
    reason, detail = clip["problem"] or (None, None)
    if not reason:
        try:
            location, content = _audio(clip)
            waveform, rate, start_s = read_excerpt(
                location, clip["start_s"], clip["duration_s"], facts.policy.max_duration, content
            )
        except AudioError as error:
            reason, detail = error.reason, str(error)
        else:
            duration_s = min(waveform.shape[1] / rate, float(facts.policy.max_duration))
            frames = num_frames(facts.policy, facts.codec, duration_s)
            found |= {"start_s": start_s, "duration_s": duration_s, "num_frames": frames}
            return found, fill_frames(waveform, rate, facts.codec, duration_s, frames).numpy().tobytes()
    return found | {"captions": [], "reason": reason, "detail": detail}, b""


def _audio(clip: dict[str, Any]) -> tuple[str, bytes | None]:
    """Where a clip's audio is, and its bytes if they are in a Parquet file.

    Raises:
        AudioError: the Parquet file cannot be read, or has neither audio nor a path.
    """
    if not clip["embedded"]:
        return clip["location"], None
    file, row = clip["embedded"]
    name = f"{file}, row {row + 1}"
    try:
        content = embedded_audio(file, row)
    except OSError as error:
        raise AudioError(f"{name}: {error}") from None
    if content is None and not clip["location"]:
        raise AudioError(f"{name} has neither audio nor a path", "missing")
    return (clip["location"] if content is None else name), content


def _check_resources(encoding: Encoding) -> None:
    """Checks that actors and one decoder fit on the cluster, as Ray Data would wait forever without a message."""
    if has_opaque_autoscaler():
        return
    needs = {"CPU": encoding.num_cpus, "GPU": encoding.num_gpus}
    requests = [Request("codec worker", encoding.workers, needs), Request("decoder", 1, {"CPU": DECODING_CPUS})]
    try:
        place(requests, cluster_nodes())
    except ResourceError as error:
        raise ResourceError(f"{error}; see --codec-workers, --codec-num-cpus, --codec-num-gpus") from None


def _configure(context: ray.data.DataContext, facts: CodecFacts) -> None:
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Each batch is passed on alone; only batches of short clips are combined.
    context.target_max_block_size = facts.clip_bytes
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


@contextmanager
def _quiet_start() -> Generator[None]:
    """Hides Ray's warning about Ray Data's actors, which bypasses Python and is written to stderr at every start."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

"""Measures what orchestration costs the driver of a run: its pools, with workers that return at once."""

from __future__ import annotations

import json
import pickle
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray

from actors.cluster.session import ray_session
from actors.options.pool_size import PoolSize
from actors.pools.pool import Pool
from actors.storage.atomic import atomic_write
from actors.workers.chunk import rollout_chunks
from actors.workers.fakes import FakeReward, FakeRollout
from actors.workers.messages import Destination
from actors.workers.writer import WriterWorker
from jobs.options.bench import OrchestrationOptions
from jobs.reporting.machine import machine_facts
from jobs.stages.output_dir import FLAG
from jobs.stages.pools import Pools
from jobs.stages.run_dir import check_writable_file
from tangoflux.data.prompts import PromptFile, draw_prompts

SMALL = 1_000
"""Lines of a prompt bank beside which a large one is shown."""

MEGABYTE = 1e6


def run(options: OrchestrationOptions) -> None:
    """Measures, prints, and writes ``--output``."""
    if options.output:
        check_writable_file(options.output, FLAG)
    with tempfile.TemporaryDirectory() as folder, _fake_pools(options) as pools:
        banks = sorted({max(SMALL, options.num_prompts), options.bank_lines})
        runs = [measure(pools, _bank(Path(folder), lines), options) for lines in banks]
    report = {"command": " ".join(["python", *sys.argv]), "machine": machine_facts(), "runs": runs}
    for run in runs:
        print(_describe(run))
    if options.output:
        with atomic_write(options.output) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")


def measure(pools: Pools, file: Path, options: OrchestrationOptions) -> dict[str, Any]:
    """One iteration's rollouts over the prompts of a bank; times, memory and bytes are the driver's own."""
    process = psutil.Process()
    before, start = process.memory_info().rss, time.process_time()
    bank = PromptFile(file, 10.0, 30.0)
    prompts = draw_prompts(bank, options.num_prompts, 0, 1)
    read, memory = time.process_time() - start, process.memory_info().rss
    chunks = rollout_chunks(prompts, 1, 0, options.num_samples, options.rollout_chunk_prompts)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        destination = Destination(Path(folder) / "rollouts", Path(folder) / "preferences")
        start, wall, samples, messages = time.process_time(), time.perf_counter(), 0, 0
        for shard in pools.collect(chunks, destination, _refuse):
            samples += shard.rows
            messages += len(pickle.dumps(shard)) + len(pickle.dumps(chunks[shard.part]))
            memory = max(memory, process.memory_info().rss)
        seconds, wall = time.process_time() - start, time.perf_counter() - wall
        stored = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
    return {
        "rollout_workers": options.rollout_workers,
        "bank_lines": len(bank),
        "samples": samples,
        "chunks": len(chunks),
        "driver_ms_per_sample": 1e3 * seconds / samples,
        "driver_ms_per_chunk": 1e3 * seconds / len(chunks),
        "samples_per_second": samples / wall,
        "stored_bytes_per_sample": stored / samples,
        "driver_bytes_per_sample": messages / samples,
        "bank_us_per_line": 1e6 * read / len(bank),
        "memory_added_mb": (memory - before) / MEGABYTE,
    }


@contextmanager
def _fake_pools(options: OrchestrationOptions) -> Generator[Pools]:
    """The pools of a run with fake rollout and reward workers and a real writer, all of them ready."""
    latents = (options.latent_frames, options.latent_channels)
    kinds = ((FakeRollout, latents, options.rollout_workers), (FakeReward, (), 1), (WriterWorker, (), 1))
    with ray_session(), ExitStack() as stack:
        parts = [
            stack.enter_context(
                closing(Pool(ray.remote(kind), args, PoolSize(size, size), {"num_cpus": 0}, kind.__name__))
            )
            for kind, args, size in kinds
        ]
        rollouts, rewards, writer = parts
        pools = Pools(rollouts, rewards, writer)
        while any(pool.status().pending for pool in parts):
            pools.poll()
            time.sleep(0.1)
        yield pools


def _bank(folder: Path, lines: int) -> Path:
    file = folder / f"bank-{lines}.txt"
    with file.open("w", encoding="utf-8") as handle:
        handle.writelines(f"a dog barks, then a bell rings {number} times\n" for number in range(lines))
    return file


def _refuse(key: object, error: Exception) -> None:
    raise error


def _describe(run: dict[str, Any]) -> str:
    return (
        f"{run['samples']:,} samples in {run['chunks']:,} chunks by {run['rollout_workers']} workers, bank of "
        f"{run['bank_lines']:,} lines: {run['driver_ms_per_sample']:.3f} ms of the driver a sample, "
        f"{run['driver_ms_per_chunk']:.1f} ms a chunk, {run['samples_per_second']:,.0f} samples/s, "
        f"{run['stored_bytes_per_sample']:,.0f} bytes stored per sample, of which the driver sends and receives "
        f"{run['driver_bytes_per_sample']:,.0f}, bank "
        f"{run['bank_us_per_line']:.1f} us a line, {run['memory_added_mb']:.0f} MB of memory more"
    )

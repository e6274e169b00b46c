"""Measures what orchestration costs the driver: the pools of a run, of workers that answer at once.

python jobs/bench.py orchestration                              # 64 rollout workers, 20,000 prompts of a million
python jobs/bench.py orchestration --actors 8 --bank-lines 10000 --output costs.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
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
from actors.workers.fakes import FakeReward, FakeRollout, FakeWriter
from jobs.reporting.machine import machine_facts
from jobs.stages.pools import Pools
from tangoflux.data.prompts import PromptFile, draw_prompts
from tangoflux.data.records import rollout_schema
from tangoflux.errors import ConfigError

SMALL = 1_000
"""Lines of a prompt bank beside which a large one is shown."""

MEGABYTE = 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; writes JSON where that is asked for."""
    arguments = _parser().parse_args(argv)
    _check(arguments)
    with tempfile.TemporaryDirectory() as folder, _fake_pools(arguments.actors) as pools:
        banks = sorted({max(SMALL, arguments.prompts), arguments.bank_lines})
        runs = [measure(pools, _bank(Path(folder), lines), arguments) for lines in banks]
    report = {"command": " ".join(["python", *sys.argv]), "machine": machine_facts(), "runs": runs}
    for run in runs:
        print(_in_words(run))
    if arguments.output:
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def measure(pools: Pools, file: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One iteration's rollouts over the prompts of a bank; times are the driver's own."""
    process = psutil.Process()
    before, start = process.memory_info().rss, time.process_time()
    bank = PromptFile(file, 10.0, 30.0)
    prompts = draw_prompts(bank, arguments.prompts, 0, 1)
    read, memory = time.process_time() - start, process.memory_info().rss
    chunks = rollout_chunks(prompts, 1, 0, arguments.samples_per_prompt, arguments.chunk_prompts)
    start, wall, samples = time.process_time(), time.perf_counter(), 0
    for _, written in pools.collect(chunks, file.parent, rollout_schema(1, 1), _refuse):
        samples += written.rows
        memory = max(memory, process.memory_info().rss)
    seconds = time.process_time() - start
    return {
        "actors": arguments.actors,
        "bank_lines": len(bank),
        "samples": samples,
        "chunks": len(chunks),
        "driver_ms_per_sample": 1e3 * seconds / samples,
        "driver_ms_per_chunk": 1e3 * seconds / len(chunks),
        "samples_per_second": samples / (time.perf_counter() - wall),
        "bank_us_per_line": 1e6 * read / len(bank),
        "memory_added_mb": (memory - before) / MEGABYTE,
    }


@contextmanager
def _fake_pools(actors: int) -> Generator[Pools]:
    """The pools of a run with so many rollout workers, all of them ready."""
    with ray_session(), ExitStack() as stack:
        parts = [
            stack.enter_context(closing(Pool(ray.remote(kind), (), PoolSize(n, n), {"num_cpus": 0}, kind.__name__)))
            for kind, n in ((FakeRollout, actors), (FakeReward, 1), (FakeWriter, 1))
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


def _check(arguments: argparse.Namespace) -> None:
    for name in ("actors", "prompts", "samples_per_prompt", "chunk_prompts"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: give 1 or more")
    if arguments.bank_lines < arguments.prompts:
        raise ConfigError(f"--bank-lines {arguments.bank_lines} is less than --prompts {arguments.prompts}: give more")


def _in_words(run: dict[str, Any]) -> str:
    return (
        f"{run['samples']:,} samples in {run['chunks']:,} chunks by {run['actors']} workers, bank of "
        f"{run['bank_lines']:,} lines: {run['driver_ms_per_sample']:.3f} ms of the driver a sample, "
        f"{run['driver_ms_per_chunk']:.1f} ms a chunk, {run['samples_per_second']:,.0f} samples/s, bank "
        f"{run['bank_us_per_line']:.1f} us a line, {run['memory_added_mb']:.0f} MB of memory more"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python jobs/bench.py orchestration", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--actors", type=int, default=64, help="rollout workers, each a process of 0.1 GB [64]")
    parser.add_argument("--prompts", type=int, default=20_000, help="of the iteration, as in the paper [20000]")
    parser.add_argument("--num-samples", type=int, default=5, help="as in the paper [5]")
    parser.add_argument("--chunk-prompts", type=int, default=8, help="as in --config tangoflux [8]")
    parser.add_argument("--bank-lines", type=int, default=1_000_000, help="of the prompt bank [1000000]")
    parser.add_argument("--output", type=Path, metavar="JSON", help="where everything that was measured goes")
    return parser

"""Measures how far ranking and writing are hidden behind the sampling of a rollout stage."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

from actors.cluster.session import ray_session
from actors.workers.chunk import Chunk, rollout_chunks
from actors.workers.messages import Destination
from jobs.options.bench import OverlapOptions
from jobs.options.crpo import RunConfig, load_config
from jobs.stages.pools import Pools, open_pools
from jobs.stages.preflight import Inputs, run_preflight
from tangoflux.data.prompts import draw_prompts


def run(options: OverlapOptions, run_arguments: Sequence[str]) -> None:
    """Measures and prints; ``run_arguments`` are for jobs/crpo.py."""
    with tempfile.TemporaryDirectory() as folder:
        config = load_config([*run_arguments, "--run-dir", str(Path(folder) / "run")])
        inputs = run_preflight(config)
        with (
            ray_session(config.rollouts, config.rewards),
            open_pools(config, inputs.policy_dir, inputs.served) as pools,
        ):
            ratios = [measure(pools, config, inputs, number) for number in range(1, options.rounds + 1)]
    print(
        f"the rollout stage takes {median(ratios):.2f} times what its sampling alone takes ({min(ratios):.2f} to "
        f"{max(ratios):.2f} in {len(ratios)} rounds)"
    )


def measure(pools: Pools, config: RunConfig, inputs: Inputs, number: int) -> float:
    """One round: the same chunks sampled alone, then with all that a stage does; returns the ratio of the times."""
    prompts = draw_prompts(inputs.prompts, config.prompts_per_iteration, config.seed, number)
    chunks = rollout_chunks(prompts, number, config.seed, config.num_samples, config.rollouts.chunk_prompts)
    if number == 1:
        _seconds(lambda: _stage(pools, chunks[:2]))  # all workers are there and warm
    alone = _seconds(lambda: pools.rollouts.stream("sample", chunks))
    whole = _seconds(lambda: _stage(pools, chunks))
    print(f"round {number}: sampling alone {alone:.1f} s, the whole stage {whole:.1f} s", file=sys.stderr, flush=True)
    return whole / alone


def _stage(pools: Pools, chunks: Sequence[Chunk]) -> Iterable[object]:
    with tempfile.TemporaryDirectory() as folder:
        yield from pools.collect(chunks, Destination(Path(folder) / "rollouts", Path(folder) / "preferences"), _refuse)


def _seconds(work: Callable[[], Iterable[object]]) -> float:
    start = time.perf_counter()
    for _ in work():
        pass
    return time.perf_counter() - start


def _refuse(key: object, error: Exception) -> None:
    raise error

"""Shows the pools of a live run, or resizes them while it runs.

python jobs/scale.py --run-dir runs/a                         the state of the pools
python jobs/scale.py --run-dir runs/a --rollout-workers 8
python jobs/scale.py --run-dir runs/a --rollout-workers 2:16 --reward-workers 1:2
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actors.cluster.live_run import find_live_run
from actors.options.command_line import load_options
from actors.options.pool_size import PoolSize
from jobs.options.runs import SCALE, ScaleOptions
from jobs.reporting.tables import format_table
from tangoflux.cli import run_main

if TYPE_CHECKING:
    from actors.pools.status import PoolStatus

RESIZE_TIMEOUT_S = 5.0
"""Seconds within which a live driver applies a resize request."""


def main(argv: Sequence[str] | None = None) -> int:
    """Sends the resize requests, if any, and prints the pools."""
    options = load_options(ScaleOptions, SCALE, argv)
    requested = {"rollouts": options.rollout_workers, "rewards": options.reward_workers}
    sizes = {name: size for name, size in requested.items() if size is not None}
    live = find_live_run(options.run_dir)
    # After the live run is found: Ray reads on import how to authenticate.
    import ray

    from actors.pools.controller import connect_controller

    with connect_controller(live, options.run_dir) as controller:
        if sizes:
            ray.get(controller.request_resize.remote(sizes), timeout=RESIZE_TIMEOUT_S)
        status = _wait_for(lambda: ray.get(controller.status.remote(), timeout=RESIZE_TIMEOUT_S), sizes)
    print(table(status))
    late = [name for name, size in sizes.items() if status[name].size != str(size)]
    if late:
        print(f"{', '.join(late)}: will be resized when the run's current step ends", file=sys.stderr)
    return 0


def table(status: Mapping[str, PoolStatus]) -> str:
    """The pools, one row each."""
    rows = [["pool", "size", "target", "ready", "pending", "busy", "deaths", "retried", "samples", "samples/s", "idle"]]
    for name, pool in status.items():
        counts = (pool.target, pool.ready, pool.pending, pool.busy, pool.deaths, pool.retried, pool.done)
        rows.append([name, pool.size, *map(str, counts), f"{pool.per_second:.2f}", f"{pool.idle_share:.0%}"])
    return format_table(rows)


def _wait_for(read: Callable[[], Any], sizes: Mapping[str, PoolSize]) -> Mapping[str, PoolStatus]:
    """The status after the driver has applied the sizes, or after ``RESIZE_TIMEOUT_S``."""
    deadline = time.monotonic() + RESIZE_TIMEOUT_S
    while True:
        status: Mapping[str, PoolStatus] = read()
        applied = bool(status) and all(status[name].size == str(size) for name, size in sizes.items())
        if applied or time.monotonic() > deadline:
            return status
        time.sleep(0.2)


if __name__ == "__main__":
    run_main(main)

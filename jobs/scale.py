"""Shows the pools of a live run, or makes them larger or smaller while it goes on.

python jobs/scale.py --run-dir runs/a                         what the pools do
python jobs/scale.py --run-dir runs/a --rollouts 8            eight rollout workers from now on
python jobs/scale.py --run-dir runs/a --rollouts 2:16 --rewards 1:2
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actors.cluster.live_run import find_live_run
from actors.options.pool_size import PoolSize
from actors.storage.object_store import parse_path
from jobs.reporting.tables import format_table
from tangoflux.cli import run_main
from tangoflux.errors import ConfigError

if TYPE_CHECKING:
    from actors.pools.status import PoolStatus

EPILOG = """\
Workers that leave finish what they were given; workers that join start on the current policy. The data stay the same.
Works from any machine of the run's cluster. A range such as 2:16 grows with the backlog and shrinks when idle."""

TAKEN_S = 5.0
"""Seconds in which a driver that is alive takes a wish."""


def main(argv: Sequence[str] | None = None) -> int:
    """Sends what is wished for, and prints the pools."""
    arguments = _parser().parse_args(argv)
    wishes = {
        name: _size(f"--{name}", text)
        for name, text in (("rollouts", arguments.rollouts), ("rewards", arguments.rewards))
        if text is not None
    }
    live = find_live_run(arguments.run_dir)
    # Ray takes seconds to import, and asks on import how it is to log in.
    import ray

    from actors.pools.controller import connect_controller

    with connect_controller(live, arguments.run_dir) as controller:
        if wishes:
            ray.get(controller.request_resize.remote(wishes), timeout=TAKEN_S)
        status = _wait_for(lambda: ray.get(controller.status.remote(), timeout=TAKEN_S), wishes)
    print(table(status))
    late = [name for name, size in wishes.items() if status[name].size != str(size)]
    if late:
        print(f"{', '.join(late)}: taken as soon as the run's current step ends", file=sys.stderr)
    return 0


def table(status: Mapping[str, PoolStatus]) -> str:
    """The pools in aligned columns."""
    rows = [["pool", "size", "target", "ready", "pending", "busy", "deaths", "retried", "samples", "samples/s", "idle"]]
    for name, pool in status.items():
        numbers = (pool.target, pool.ready, pool.pending, pool.busy, pool.deaths, pool.retried, pool.done)
        rows.append([name, pool.size, *map(str, numbers), f"{pool.per_second:.2f}", f"{pool.idle_share:.0%}"])
    return format_table(rows)


def _wait_for(read: Callable[[], Any], wishes: Mapping[str, PoolSize]) -> Mapping[str, PoolStatus]:
    """The status once the driver has taken the wishes, or after ``TAKEN_S``."""
    until = time.monotonic() + TAKEN_S
    while True:
        status: Mapping[str, PoolStatus] = read()
        taken = bool(status) and all(status[name].size == str(size) for name, size in wishes.items())
        if taken or time.monotonic() > until:
            return status
        time.sleep(0.2)


def _size(flag: str, text: str) -> PoolSize:
    try:
        return PoolSize.parse(text)
    except ValueError as error:
        raise ConfigError(f"{flag} {error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python jobs/scale.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run-dir", type=parse_path, required=True, help="the run's directory or URI")
    parser.add_argument("--rollouts", metavar="N|N:M", help="rollout workers")
    parser.add_argument("--rewards", metavar="N|N:M", help="reward workers")
    return parser


if __name__ == "__main__":
    run_main(main)

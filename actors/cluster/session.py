"""The Ray session of a job: an existing cluster, or Ray started on this machine until the job ends."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import ray
import torch
from ray._private.utils import read_ray_address
from ray.exceptions import RayError

from actors.cluster.address import cluster_address
from actors.cluster.local import start_ray
from actors.options.pool_size import PoolSize
from actors.options.scheduling import Processes
from tangoflux.cli import Terminated, catch_sigterm
from tangoflux.errors import ResourceError

CONNECT_TIMEOUT_S = 10.0
"""Time within which the head must answer. Ray itself retries for minutes and then ends the process."""

QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}

NO_METRICS = {
    # Without the dashboard's agent every worker would complain that it cannot export its metrics.
    "RAY_enable_metrics_collection": "0",
}


@contextmanager
def ray_session(*kinds: Processes) -> Generator[None]:
    """Joins the cluster at ``RAY_ADDRESS`` (set by ``ray job submit``), or starts Ray on this machine.

    If this process is already connected to Ray, it stays connected.

    Args:
        kinds: the workers that will run.

    Raises:
        ResourceError: the cluster cannot be joined, Ray cannot start, or this machine has too few GPUs for a worker.
    """
    # The pools raise what a task raised; Ray would print its traceback before that.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    if ray.is_initialized():
        yield
        return
    if address := cluster_address():
        join_cluster(address)
    else:
        _check_gpus(kinds)
        silence_ray_logs()
        start_ray(_logical_cpus(kinds))
    try:
        yield
    finally:
        ray.shutdown()


def join_cluster(address: str) -> None:
    """Joins the cluster at an address in the format of ``RAY_ADDRESS``.

    Raises:
        Terminated: SIGTERM arrived meanwhile.
        ResourceError: the cluster does not answer, or the address is invalid.
    """
    try:
        # "auto" is in a file that may be left from a cluster that is gone.
        found = read_ray_address() if address == "auto" else address
        if head := re.fullmatch(r"([^/:]+):(\d+)", found or ""):
            socket.create_connection((head[1], int(head[2])), CONNECT_TIMEOUT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, ValueError, RuntimeError, RayError) as error:
        reason = str(error).partition("\n")[0].split(". ")[0]
        raise ResourceError(
            f"the cluster at RAY_ADDRESS={address} cannot be joined ({reason}): give the head's host:port, as `ray "
            "start --head` shows it, set RAY_AUTH_MODE=token if it asks for tokens, or unset RAY_ADDRESS to start Ray "
            "on this machine"
        ) from error
    except SystemExit:  # what Ray's own handler of SIGTERM does
        raise Terminated from None
    finally:
        catch_sigterm()


def silence_ray_logs(metrics: bool = False) -> None:
    """Keeps log messages of Ray and the libraries in Ray's log files; call it before Ray is started.

    Variables that are already set keep their values.

    Args:
        metrics: whether Ray collects metrics.
    """
    for name, value in (QUIET | ({} if metrics else NO_METRICS)).items():
        os.environ.setdefault(name, value)


def _check_gpus(kinds: Sequence[Processes]) -> None:
    """Without this check Ray would wait silently and forever.

    Raises:
        ResourceError: a worker needs more GPUs than this machine has.
    """
    needed, available = max((kind.num_gpus for kind in kinds), default=0), torch.cuda.device_count()
    if needed > available:
        raise ResourceError(
            f"a worker asks for {needed:g} GPUs and this machine has {available}: lower --rollout-num-gpus, "
            "--reward-num-gpus, --learner-num-gpus or --codec-num-gpus, or start on a cluster that has them"
        )


def _logical_cpus(kinds: Sequence[Processes]) -> int:
    """All cores, or more if all workers together need more: they alternate, so cores may be counted twice."""
    needed = sum(PoolSize.parse(kind.workers).most * kind.num_cpus for kind in kinds)
    return max(os.cpu_count() or 1, math.ceil(needed))

"""The Ray session of a job: the cluster it was submitted to, or one started on this machine for as long as it runs."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import ray
import torch

from actors.cluster.join import join
from actors.cluster.ray_logs import silence_ray_logs
from actors.options.pool_size import PoolSize
from actors.options.scheduling import Processes
from tangoflux.cli import catch_sigterm
from tangoflux.errors import ResourceError


@contextmanager
def ray_session(*kinds: Processes) -> Generator[None]:
    """Joins the cluster in ``RAY_ADDRESS`` (``ray job submit`` sets it), or starts Ray on this machine.

    A process that has joined or started Ray already goes on with that.

    Args:
        kinds: the workers that there will be.

    Raises:
        ResourceError: the cluster cannot be joined, or this machine has not the GPUs that they ask for.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        join(address)
    else:
        _check_gpus(kinds)
        silence_ray_logs()
        ray.init(
            num_cpus=_logical_cpus(kinds), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
    catch_sigterm()
    try:
        yield
    finally:
        ray.shutdown()


def _check_gpus(kinds: Sequence[Processes]) -> None:
    """Ray would wait without a word and without an end.

    Raises:
        ResourceError: a process asks for more GPUs than this machine has.
    """
    asked, there = max((kind.num_gpus for kind in kinds), default=0), torch.cuda.device_count()
    if asked > there:
        raise ResourceError(
            f"a worker asks for {asked:g} GPUs and this machine has {there}: lower --rollout-num-gpus, "
            "--reward-num-gpus, --learner-num-gpus or --codec-num-gpus, or start on a cluster that has them"
        )


def _logical_cpus(kinds: Sequence[Processes]) -> int:
    """All cores, and at least what all ask for: they take turns, so that they need not be paid twice."""
    asked = sum(PoolSize.parse(kind.workers).most * kind.num_cpus for kind in kinds)
    return max(os.cpu_count() or 1, math.ceil(asked))

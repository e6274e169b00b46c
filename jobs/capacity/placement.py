"""Checks before a run that its workers can be placed on the cluster's nodes, and shows where."""

from __future__ import annotations

from collections.abc import Sequence

from actors.cluster.nodes import cluster_nodes, has_opaque_autoscaler
from actors.cluster.placement import Request, place
from actors.options.pool_size import PoolSize
from actors.options.scheduling import ScheduledWorkerOptions
from jobs.options.crpo import RunConfig
from jobs.options.learner import TrainingOptions


def place_run(config: RunConfig) -> str:
    """Checks a CRPO run: both pools at the same time, then the learner, which may use the whole cluster.

    Returns:
        A line for each kind of workers.

    Raises:
        ResourceError: workers can never be placed; names the missing resource.
    """
    pools = [request("rollout workers", config.rollouts), request("reward workers", config.rewards)]
    return describe_placement([pools, [learner_request(config.learner)]])


def place_learner(learner: TrainingOptions) -> str:
    """Checks a job that only trains; see ``place_run``."""
    return describe_placement([[learner_request(learner)]])


def learner_request(learner: TrainingOptions) -> Request:
    """The learner's ranks."""
    return request("learner ranks", learner)


def request(name: str, workers: ScheduledWorkerOptions) -> Request:
    """The smallest number of workers that the options allow."""
    needs = {"CPU": workers.num_cpus, "GPU": workers.num_gpus, **workers.resources}
    return Request(name, PoolSize.parse(workers.workers).least, needs, workers.label_selector)


def describe_placement(phases: Sequence[Sequence[Request]]) -> str:
    """A line for each kind of workers; the workers of a phase run at the same time."""
    if has_opaque_autoscaler():
        return "placement: left to Kubernetes, whose autoscaler may add nodes that are not visible yet"
    nodes, lines = cluster_nodes(), list[str]()
    for phase in phases:
        for name, places in place(phase, nodes).items():
            where = ", ".join(f"{count} on {node}" for node, count in places.items())
            lines.append(f"{next(str(asked) for asked in phase if asked.name == name)}: {where}")
    return "placement\n  " + "\n  ".join(lines)

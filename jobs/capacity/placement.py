"""What of a run will run where, and whether it can: before anything is loaded, and before the learner."""

from __future__ import annotations

from collections.abc import Sequence

from actors.cluster.nodes import cluster_nodes, has_opaque_autoscaler
from actors.cluster.placement import Request, place
from actors.options.pool_size import PoolSize
from actors.options.scheduling import ScheduledWorkerOptions
from jobs.options.crpo import RunConfig
from jobs.options.sections import TrainingOptions


def place_run(config: RunConfig) -> str:
    """Checks a whole run: the pools at once, and the learner, which may have the whole cluster.

    Returns:
        the plan in words.

    Raises:
        ResourceError: something can never find a place; says what is lacking.
    """
    pools = [request("rollout workers", config.rollouts), request("reward workers", config.rewards)]
    return describe_placement([pools, [learner_request(config.learner)]])


def place_learner(learner: TrainingOptions) -> str:
    """The same of a job that only trains."""
    return describe_placement([[learner_request(learner)]])


def learner_request(learner: TrainingOptions) -> Request:
    """The ranks."""
    return request("learner ranks", learner)


def request(name: str, workers: ScheduledWorkerOptions) -> Request:
    """The fewest workers that the options ask for."""
    needs = {"CPU": workers.num_cpus, "GPU": workers.num_gpus, **workers.resources}
    return Request(name, PoolSize.parse(workers.workers).least, needs, workers.label_selector)


def describe_placement(phases: Sequence[Sequence[Request]]) -> str:
    """A line for each kind of workers; those of a phase run at the same time."""
    if has_opaque_autoscaler():
        return "placement: left to Kubernetes, whose autoscaler may add nodes that cannot be seen from here"
    nodes, lines = cluster_nodes(), list[str]()
    for phase in phases:
        for name, places in place(phase, nodes).items():
            where = ", ".join(f"{count} on {node}" for node, count in places.items())
            lines.append(f"{next(str(asked) for asked in phase if asked.name == name)}: {where}")
    return "placement\n  " + "\n  ".join(lines)

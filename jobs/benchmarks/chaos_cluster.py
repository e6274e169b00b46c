"""A cluster of several nodes on this machine, whose processes can be killed by what they are."""

from __future__ import annotations

import os
import random
import re
from types import TracebackType
from typing import Any

import psutil

PROCESS_TITLES = {
    "rollout": r"ray::RolloutWorker",
    "reward": r"ray::RewardWorker",
    "writer": r"ray::WriterWorker",
    "controller": r"ray::PoolController",
    "learner": r"ray::.*RayTrainWorker|ray::TrainController|ray::Mailbox",
}
"""Patterns of process titles by kind; nodes and drivers are killed by other means."""


class ChaosCluster:
    """A head, which is spared, and two nodes for rollout workers; use it as a context manager."""

    def __enter__(self) -> ChaosCluster:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, "dashboard_port": None}
        )
        self._nodes = [self._add(), self._add()]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.shutdown()

    @property
    def address(self) -> dict[str, str]:
        """The environment by which a driver finds the cluster."""
        mode = os.environ.get("RAY_AUTH_MODE")
        return {"RAY_ADDRESS": self._cluster.address} | ({"RAY_AUTH_MODE": mode} if mode else {})

    def kill(self, kind: str, source: random.Random) -> bool:
        """SIGKILL for one process of a kind, or for a node, which another one replaces; false where there is none."""
        if kind == "node":
            node = self._nodes.pop(source.randrange(len(self._nodes)))
            self._cluster.remove_node(node, allow_graceful=False)
            self._nodes.append(self._add())
            return True
        children = psutil.Process().children(recursive=True)
        found = [child for child in children if re.match(PROCESS_TITLES[kind], _title(child))]
        if found:
            source.choice(sorted(found, key=lambda process: process.pid)).kill()
        return bool(found)

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=2, resources={"rollout": 1})


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it ended meanwhile
        return ""

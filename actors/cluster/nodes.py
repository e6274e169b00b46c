"""The nodes of the cluster that this process has joined, and those that its autoscaler may add."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._private.state import available_resources_per_node
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.cluster.placement import Nodes

NODE_GROUP = "ray.io/node-group"
"""The label in which an autoscaler's nodes carry the name of their type."""

BOOTSTRAP = Path.home() / "ray_bootstrap_config.yaml"
"""Where ``ray up`` leaves the cluster's file on the head."""

KUBERAY = "KUBERAY_GEN_RAY_START_CMD"
"""In the environment of KubeRay's pods, which cannot see what their autoscaler may add."""


def cluster_nodes() -> list[Nodes]:
    """Living nodes, then those that ``ray up``'s autoscaler may add."""
    living: list[Any] = [node for node in ray.nodes() if node["Alive"]]
    there = [Nodes(_name(node), node["Resources"], node.get("Labels", {})) for node in living]
    file = yaml.safe_load(BOOTSTRAP.read_text()) if BOOTSTRAP.is_file() else {}
    return there + addable(file, Counter(node.get("Labels", {}).get(NODE_GROUP) for node in living))


def free_nodes() -> list[Nodes]:
    """Living nodes, with what nobody has taken of each."""
    free = available_resources_per_node()
    return [
        Nodes(_name(node), free.get(node["NodeID"], {}), node.get("Labels", {}))
        for node in ray.nodes()
        if node["Alive"]
    ]


def this_node() -> NodeAffinitySchedulingStrategy:
    """For actors without which the driver is lost: they go with its node, and with no other."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def may_grow_unseen() -> bool:
    """Whether there may be an autoscaler whose types of nodes nobody here knows."""
    return KUBERAY in os.environ


def addable(cluster_file: Mapping[str, Any], there: Mapping[Any, int]) -> list[Nodes]:
    """What the autoscaler of a cluster file may add to the nodes that are there, by the names of their types."""
    total = cluster_file.get("max_workers", 0)
    kinds: Mapping[str, Any] = cluster_file.get("available_node_types", {})
    more = [
        Nodes(name, kind.get("resources", {}), None, min(total, kind.get("max_workers", total)) - there.get(name, 0))
        for name, kind in kinds.items()
        if name != cluster_file.get("head_node_type")
    ]
    return [nodes for nodes in more if nodes.count > 0]


def _name(node: dict[str, Any]) -> str:
    return node.get("Labels", {}).get(NODE_GROUP) or f"node {node['NodeManagerAddress']}"

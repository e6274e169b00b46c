"""The nodes of the cluster that this process has joined, and those that its autoscaler may add."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._private.state import actors, available_resources_per_node
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.cluster.placement import NodeGroup

NODE_GROUP_LABEL = "ray.io/node-group"
"""The label in which an autoscaler's nodes have the name of their type."""

CLUSTER_FILE = Path.home() / "ray_bootstrap_config.yaml"
"""Where ``ray up`` leaves the cluster file on the head."""

KUBERAY = "KUBERAY_GEN_RAY_START_CMD"
"""Set in KubeRay's pods, where the limits of the autoscaler are unknown."""


def cluster_nodes() -> list[NodeGroup]:
    """Living nodes, then those that ``ray up``'s autoscaler may add."""
    living = _living_nodes()
    file = yaml.safe_load(CLUSTER_FILE.read_text()) if CLUSTER_FILE.is_file() else {}
    counts = Counter(node.get("Labels", {}).get(NODE_GROUP_LABEL) for node in living)
    return [_node_group(node, node["Resources"]) for node in living] + addable_nodes(file, counts)


def free_nodes() -> list[NodeGroup]:
    """Living nodes, with the resources that are free on each."""
    free = available_resources_per_node()
    return [_node_group(node, free.get(node["NodeID"], {})) for node in _living_nodes()]


def has_place(actor: Any) -> bool:
    """Whether an actor runs on a node or starts there; else it waits for resources."""
    info: Any = actors(actor._actor_id.hex())
    return bool(info and info["Address"]["IPAddress"])


def this_node() -> NodeAffinitySchedulingStrategy:
    """Schedules an actor on the driver's node, so that it dies with the driver and with no other node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def has_opaque_autoscaler() -> bool:
    """Whether there may be an autoscaler whose node types are unknown here."""
    return KUBERAY in os.environ


def addable_nodes(cluster_file: Mapping[str, Any], counts: Mapping[Any, int]) -> list[NodeGroup]:
    """What the autoscaler of a cluster file may add to the existing nodes.

    Args:
        counts: number of existing nodes by the name of their type.
    """
    total = cluster_file.get("max_workers", 0)
    types: Mapping[str, Any] = cluster_file.get("available_node_types", {})
    groups = [
        NodeGroup(
            name, kind.get("resources", {}), None, min(total, kind.get("max_workers", total)) - counts.get(name, 0)
        )
        for name, kind in types.items()
        if name != cluster_file.get("head_node_type")
    ]
    return [group for group in groups if group.count > 0]


def _living_nodes() -> list[Any]:
    return [node for node in ray.nodes() if node["Alive"]]


def _node_group(node: Any, resources: Mapping[str, float]) -> NodeGroup:
    labels = node.get("Labels", {})
    return NodeGroup(labels.get(NODE_GROUP_LABEL) or f"node {node['NodeManagerAddress']}", resources, labels)

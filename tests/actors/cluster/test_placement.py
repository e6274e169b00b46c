"""Whether workers can be scheduled on given nodes."""

from __future__ import annotations

import pytest

from actors.cluster.nodes import addable_nodes
from actors.cluster.placement import NodeGroup, Request, matches, place
from tangoflux.errors import ResourceError

HEAD = NodeGroup("head", {"CPU": 8}, {"tier": "on-demand"})
GPUS = NodeGroup("rollout", {"CPU": 4, "GPU": 1, "rollout": 1}, {"tier": "spot"}, count=3)


def test_each_worker_is_placed_on_the_first_node_with_free_resources() -> None:
    rollouts = Request("rollout workers", 3, {"CPU": 1, "GPU": 1, "rollout": 1})
    rewards = Request("reward workers", 5, {"CPU": 2})
    assert place([rewards, rollouts], [HEAD, GPUS]) == {
        "rollout workers": {"rollout": 3},
        "reward workers": {"head": 4, "rollout": 1},
    }


def test_fractional_gpus_share_one_gpu_and_do_not_span_nodes() -> None:
    assert place([Request("a", 4, {"GPU": 0.5})], [NodeGroup("n", {"GPU": 1}, count=2)]) == {"a": {"n": 4}}
    with pytest.raises(ResourceError, match="cannot be scheduled next to the other workers"):
        place([Request("a", 3, {"GPU": 0.6})], [NodeGroup("n", {"GPU": 1}, count=2)])


def test_workers_with_rare_needs_are_placed_first() -> None:
    nodes = [NodeGroup("gpu", {"CPU": 8, "GPU": 1}), NodeGroup("cpu", {"CPU": 8})]
    many, rare = Request("many", 2, {"CPU": 4}), Request("rare", 1, {"CPU": 2, "GPU": 1})
    assert place([many, rare], nodes)["rare"] == {"gpu": 1}
    bound = Request("bound", 1, {"CPU": 2}, {"tier": "spot"})
    labelled = [NodeGroup("spot", {"CPU": 4}, {"tier": "spot"}), NodeGroup("other", {"CPU": 4}, {"tier": "on-demand"})]
    assert place([Request("free", 1, {"CPU": 4}), bound], labelled) == {"free": {"other": 1}, "bound": {"spot": 1}}


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (
            Request("w", 1, {"CPU": 9}),
            r"1 x w \(9 CPU\) cannot be scheduled: no node has 9 CPU, the largest has 8; nodes: 1 x head",
        ),
        (Request("w", 1, {"CPU": 8, "GPU": 1}), r"cannot be scheduled next to the other workers"),
        (Request("w", 1, {"fast": 1}), r"no node has 1 fast, the largest has 0"),
        (Request("w", 4, {"GPU": 1}), r"4 x w \(1 GPU\) cannot be scheduled next to the other workers"),
        (Request("w", 1, {"CPU": 1}, {"zone": "a"}), r"no node has the labels zone=a; nodes: 1 x head \(8 CPU\)"),
    ],
)
def test_a_refusal_names_the_missing_resource(request_: Request, said: str) -> None:
    # Together the nodes have 20 CPUs and 3 GPUs.
    with pytest.raises(ResourceError, match=said):
        place([request_], [HEAD, GPUS])


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("a", True),
        ("b", False),
        ("!a", False),
        ("!b", True),
        ("in(a,b)", True),
        ("in(b,c)", False),
        ("!in(a,b)", False),
    ],
)
def test_label_selectors_match_as_in_ray(wanted: str, expected: bool) -> None:
    assert matches({"zone": "a"}, {"zone": wanted}) is expected
    assert matches(None, {"zone": wanted}), "unknown labels match"


def test_an_autoscaler_may_add_nodes_up_to_the_limits_of_its_file() -> None:
    kinds = {"head": {"resources": {"CPU": 8}}, "gpu": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 4}}
    file = {"max_workers": 10, "head_node_type": "head", "available_node_types": kinds}
    assert addable_nodes(file, {"gpu": 1}) == [NodeGroup("gpu", {"CPU": 4, "GPU": 1}, None, 3)]
    assert addable_nodes({**file, "max_workers": 1}, {"gpu": 1}) == []
    assert addable_nodes({}, {}) == []

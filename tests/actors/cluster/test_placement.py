"""Whether workers find a place on nodes of given shapes."""

from __future__ import annotations

import pytest

from actors.cluster.nodes import addable
from actors.cluster.placement import Nodes, Request, matches, place
from tangoflux.errors import ResourceError

HEAD = Nodes("head", {"CPU": 8}, {"tier": "on-demand"})
GPUS = Nodes("rollout", {"CPU": 4, "GPU": 1, "rollout": 1}, {"tier": "spot"}, count=3)


def test_each_worker_is_placed_on_the_first_node_that_has_room() -> None:
    rollouts = Request("rollout workers", 3, {"CPU": 1, "GPU": 1, "rollout": 1})
    rewards = Request("reward workers", 5, {"CPU": 2})
    assert place([rewards, rollouts], [HEAD, GPUS]) == {
        "rollout workers": {"rollout": 3},
        "reward workers": {"head": 4, "rollout": 1},
    }


def test_fractions_of_a_gpu_share_it_and_do_not_cross_nodes() -> None:
    assert place([Request("a", 4, {"GPU": 0.5})], [Nodes("n", {"GPU": 1}, count=2)]) == {"a": {"n": 4}}
    with pytest.raises(ResourceError, match="find no place beside what else runs then"):
        place([Request("a", 3, {"GPU": 0.6})], [Nodes("n", {"GPU": 1}, count=2)])


def test_what_only_some_nodes_can_hold_is_placed_before_what_any_can() -> None:
    nodes = [Nodes("gpu", {"CPU": 8, "GPU": 1}), Nodes("cpu", {"CPU": 8})]
    many, rare = Request("many", 2, {"CPU": 4}), Request("rare", 1, {"CPU": 2, "GPU": 1})
    assert place([many, rare], nodes)["rare"] == {"gpu": 1}
    bound = Request("bound", 1, {"CPU": 2}, {"tier": "spot"})
    labelled = [Nodes("spot", {"CPU": 4}, {"tier": "spot"}), Nodes("other", {"CPU": 4}, {"tier": "on-demand"})]
    assert place([Request("free", 1, {"CPU": 4}), bound], labelled) == {"free": {"other": 1}, "bound": {"spot": 1}}


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request("w", 1, {"CPU": 9}), r"1 x w \(9 CPU\) find no place: no node has 9 CPU, the most is 8; 1 x head"),
        (Request("w", 1, {"CPU": 8, "GPU": 1}), r"find no place beside what else"),
        (Request("w", 1, {"fast": 1}), r"no node has 1 fast, the most is 0"),
        (Request("w", 4, {"GPU": 1}), r"4 x w \(1 GPU\) find no place beside what else runs then"),
        (Request("w", 1, {"CPU": 1}, {"zone": "a"}), r"no node has the labels zone=a; there are: 1 x head \(8 CPU\)"),
    ],
)
def test_what_finds_no_place_is_told_with_what_is_lacking(request_: Request, said: str) -> None:
    # In sum the nodes have 20 CPUs and 3 GPUs.
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
def test_label_selectors_mean_what_they_mean_to_ray(wanted: str, expected: bool) -> None:
    assert matches({"zone": "a"}, {"zone": wanted}) is expected
    assert matches(None, {"zone": wanted}), "labels that are not known may match"


def test_an_autoscaler_may_add_what_its_file_allows_and_is_not_there_yet() -> None:
    kinds = {"head": {"resources": {"CPU": 8}}, "gpu": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 4}}
    file = {"max_workers": 10, "head_node_type": "head", "available_node_types": kinds}
    assert addable(file, {"gpu": 1}) == [Nodes("gpu", {"CPU": 4, "GPU": 1}, None, 3)]
    assert addable({**file, "max_workers": 1}, {"gpu": 1}) == []
    assert addable({}, {}) == []

"""Aspects, from activity that is drawn by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tangoflux.soundworld import Event, SceneContent, random_scene, render_with_units
from tangoflux.soundworld.activity import Segment, activity_of, segments
from tangoflux.soundworld.aspects import ASPECTS, aspects

BARKS_THEN_BELL = SceneContent((Event("bark", 2), Event("bell")))


def heard(**units: list[int]) -> dict[str, list[Segment]]:
    """Units of 12 frames of each kind that start at the given frames."""
    return {kind: [(start, start + 12) for start in starts] for kind, starts in units.items()}


def test_every_aspect_of_a_rendered_scene_is_right() -> None:
    rng = np.random.default_rng(7)
    for _ in range(200):
        scene = random_scene(rng, "all")
        found = aspects(scene.content, segments(activity_of(render_with_units(scene, rng)[1])))
        wrong = {"background": 0.0}
        assert all(math.isnan(value) or value == wrong.get(name, 1.0) for name, value in found.items()), (scene, found)
        assert tuple(found) == ASPECTS


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        (heard(bark=[0, 20], bell=[40]), {}),
        (heard(bark=[20, 40], bell=[0]), {"order": 0, "exact": 0}),
        (heard(bark=[0, 20, 40], bell=[60]), {"count": 0.5, "exact": 0}),
        (heard(bark=[0, 20], bell=[40], hiss=[60]), {"precision": 2 / 3, "background": 1, "set_exact": 0, "exact": 0}),
        (heard(bark=[0, 20], bell=[40], drum=[60]), {"precision": 2 / 3, "set_exact": 0, "exact": 0}),
        (
            heard(bell=[0]),
            {"recall": 0.5, "order": None, "overlap": None, "all_kinds": 0, "set_exact": 0, "exact": 0},
        ),
        (heard(bark=[0, 20], bell=[2]), {"order": 0, "overlap": 0, "exact": 0}),
    ],
)
def test_what_is_wrong_shows_in_its_aspects_only(
    units: dict[str, list[Segment]], expected: dict[str, float | None]
) -> None:
    right = {name: 0.0 if name == "background" else 1.0 for name in ASPECTS} | expected
    found = aspects(BARKS_THEN_BELL, units)
    assert {name: None if math.isnan(value) else value for name, value in found.items()} == pytest.approx(right)


def test_nothing_heard_has_no_recall_and_what_does_not_apply_has_no_score() -> None:
    found = aspects(BARKS_THEN_BELL, heard())
    assert found["recall"] == found["all_kinds"] == found["exact"] == found["background"] == 0
    assert all(math.isnan(found[name]) for name in ("precision", "count", "order", "overlap"))


def test_a_background_that_is_asked_for_is_none() -> None:
    wanted = SceneContent((Event("hiss"), Event("rumble")))
    assert math.isnan(aspects(wanted, heard(hiss=[0], rumble=[30]))["background"])
    assert aspects(SceneContent((Event("hiss"),)), heard(hiss=[0], rumble=[30]))["background"] == 1


def test_events_at_once_have_no_order() -> None:
    wanted = SceneContent((Event("bark"), Event("bell")), overlap=True)
    found = aspects(wanted, heard(bark=[0], bell=[3]))
    assert math.isnan(found["order"]) and found["overlap"] == found["exact"] == 1
    assert aspects(wanted, heard(bark=[0], bell=[30]))["overlap"] == 0


def test_a_kind_that_is_named_twice_has_a_count_but_no_place() -> None:
    wanted = SceneContent((Event("bark"), Event("bell"), Event("bark")))
    found = aspects(wanted, heard(bark=[0, 40], bell=[20]))
    assert found["count"] == found["exact"] == 1 and math.isnan(found["order"])

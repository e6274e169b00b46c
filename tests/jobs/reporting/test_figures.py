from __future__ import annotations

from typing import Any, get_args

import pytest

from jobs.options.crpo import Figure
from jobs.reporting.figures import FIGURES, alarm, best_iteration, gain_in_errors, parting, result_iteration
from tangoflux.soundworld.aspects import ASPECTS

Heldout = dict[str, dict[str, Any]]


def heldout(step_errors: float = 0.0, **errors: float) -> Heldout:
    """Figures that changed by so many errors from the base, and by ``step_errors`` from the iteration before."""
    return {
        name: {"delta": 0.01 * value, "delta_se": 0.01, "step": 0.01 * step_errors, "step_se": 0.01}
        for name, value in errors.items()
    }


def row(iteration: int, **means: float) -> dict[str, Any]:
    return {"iteration": iteration, "heldout": {name: {"mean": mean} for name, mean in means.items()}}


def test_every_aspect_is_a_figure_and_can_be_the_one_to_keep() -> None:
    assert tuple(FIGURES) == ("reward", "judge", *ASPECTS) == get_args(Figure)


def test_less_background_is_a_gain() -> None:
    assert gain_in_errors("background", {"delta": -0.2, "delta_se": 0.1}) == 2.0
    assert gain_in_errors("recall", {"delta": -0.2, "delta_se": 0.1}) == -2.0
    assert gain_in_errors("recall", {"delta": 0.0, "delta_se": 0.0}) is None


def test_reward_and_truth_part_where_the_reward_rises_and_a_figure_clearly_falls() -> None:
    assert parting(heldout(reward=3, judge=2, recall=-3, background=2.5)) == (
        "reward and truth part: reward up, recall down by 3.0, background up by 2.5 standard errors"
    )
    assert parting(heldout(reward=3, recall=-1.9, background=-4)) is None
    assert parting(heldout(reward=-3, recall=-3)) is None
    assert parting({}) is None


@pytest.mark.parametrize(
    ("before", "now", "figures"),
    [
        (heldout(reward=1, recall=-1.2), heldout(reward=2, recall=-1.1), ["recall"]),
        (heldout(reward=1, recall=-0.9), heldout(reward=2, recall=-3), []),
        (heldout(reward=1, recall=-2), heldout(reward=2, judge=-2), []),
        (heldout(reward=-1, recall=-2), heldout(reward=2, recall=-2), []),
    ],
)
def test_an_alarm_needs_the_same_figure_to_fall_twice_while_the_reward_rises(
    before: Heldout, now: Heldout, figures: list[str]
) -> None:
    assert alarm([before, now]) == figures
    assert alarm([now]) == []


def test_a_figure_above_the_base_that_falls_from_one_iteration_to_the_next_gives_an_alarm_too() -> None:
    falling = heldout(reward=4, judge=3)
    falling["reward"] |= {"step": 0.01}
    falling["judge"] |= {"step": -0.02}
    assert alarm([falling, falling]) == ["judge"]


def test_the_best_iteration_is_the_earliest_with_the_best_mean() -> None:
    rows = [row(0, judge=0.5, background=0.4), row(1, judge=0.6, background=0.1), row(2, judge=0.6, background=0.2)]
    assert best_iteration(rows, "judge") == best_iteration(rows, "background") == 1
    assert best_iteration(rows, "recall") == 2, "of a figure that nobody measured, the last"
    assert (result_iteration(rows, "judge"), result_iteration(rows, None)) == (1, 2)

from __future__ import annotations

import re

import pytest

from jobs.reporting.html.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Line, line_chart, stacked_bars


def test_a_chart_holds_its_points_bands_and_words() -> None:
    line = Line("reward", [(0, 0.1), (1, 0.2)], errors=[0.01, 0.01])
    chart = line_chart("A <b>", [line], note="", x_label="iteration", baseline=0.1)
    assert chart is not None and "A &lt;b&gt;. reward from 0.100 to 0.200" in chart.svg
    assert "polygon" in chart.svg and "baseline" in chart.svg
    assert line_chart("nothing", [Line("x", [])], note="", x_label="step") is None


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [1e-9, 2e-9], [1e9, 1e9 + 1], [-5.0, 5.0], [0.3]])
def test_every_point_is_drawn_between_the_axes_in_its_order(values: list[float]) -> None:
    chart = line_chart("t", [Line("x", list(enumerate(values)))], note="", x_label="step")
    assert chart is not None
    dots = [(float(x), float(y)) for x, y in re.findall(r'cx="([^"]+)" cy="([^"]+)"', chart.svg)]
    assert len(dots) == len(values)
    assert all(LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM for x, y in dots)
    assert dots == sorted(dots), "points run to the right"
    heights = [-y for _, y in dots]
    assert sorted(range(len(values)), key=values.__getitem__) == sorted(range(len(values)), key=heights.__getitem__)


def test_the_axis_has_round_values_around_the_points() -> None:
    chart = line_chart("t", [Line("x", [(0, 0.123), (1, 0.287)])], note="", x_label="step")
    assert chart is not None
    labels = re.findall(r'text-anchor="end">([^<]+)<', chart.svg)
    assert labels == ["0.10", "0.15", "0.20", "0.25", "0.30"]


def test_stacked_bars_are_shares_of_the_longest() -> None:
    bars = stacked_bars("t", {"one": {"a": 1.0, "b": 3.0}, "two": {"a": 2.0}}, note="", unit="s")
    assert bars is not None
    assert [[share for _, share, _ in bar.parts] for bar in bars.bars] == [[25.0, 75.0], [50.0]]
    assert [bar.total for bar in bars.bars] == ["4 s", "2 s"]
    assert stacked_bars("t", {"one": {"a": 0.0}}, note="") is None

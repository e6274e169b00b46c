"""Line charts as inline SVG, and stacked bars. The page's style sheet sets colours and fonts by class name."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from jobs.reporting.formatting import format_number, with_minus_signs

WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 36


@dataclass(frozen=True)
class Line:
    """One line of a chart: ``(x, y)`` points and, optionally, the half-height of the error band at each point."""

    label: str
    points: Sequence[tuple[float, float]]
    errors: Sequence[float] = ()
    colour: str = "a"
    faint: bool = False
    breaks: Sequence[float] = ()
    """x values at which the line is interrupted."""


@dataclass(frozen=True)
class Chart:
    """A drawn chart with its heading, note and legend."""

    title: str
    note: str
    svg: str
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Bar:
    """A row's label, its total, and the parts: colour, length in percent of the longest bar, and description."""

    label: str
    total: str
    parts: Sequence[tuple[str, float, str]]


@dataclass(frozen=True)
class Bars:
    """Stacked bars, laid out by the page in HTML so that the text keeps its size."""

    title: str
    note: str
    bars: Sequence[Bar]
    legend: Sequence[tuple[str, str]]


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    note: str,
    x_label: str,
    baseline: float | None = None,
    borders: Sequence[tuple[float, str]] = (),
    whiskers: Sequence[float] = (),
) -> Chart | None:
    """Draws lines over a numeric axis; returns None if no line has a point.

    Args:
        baseline: a value marked by a dashed line across the chart.
        borders: x values marked by a vertical line and a label.
        whiskers: a second half-height of error at each point of the first line.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    xs = [x for line in lines for x, _ in line.points]
    axes = _Axes.around((min(xs), max(xs)), _y_range(lines, whiskers, baseline))
    parts = [axes.grid(x_label, integers=all(float(x).is_integer() for x in xs))]
    parts += [axes.border(x, label) for x, label in borders]
    if baseline is not None:
        y = axes.y(baseline)
        parts.append(f'<line class="baseline" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts += [axes.band(line) for line in lines if line.errors]
    parts += [axes.whisker(x, y, error) for (x, y), error in zip(lines[0].points, whiskers, strict=False) if error]
    parts += [axes.line(line) for line in lines]
    legend = [(line.colour, line.label) for line in lines if not line.faint] if len(lines) > 1 else []
    return Chart(title, note, _svg(_describe(title, lines), parts), legend if len(legend) > 1 else [])


def stacked_bars(title: str, rows: Mapping[str, Mapping[str, float]], *, note: str, unit: str = "") -> Bars | None:
    """One horizontal bar per row, divided into its named parts; None if all are empty."""
    fullest_first = sorted(rows.values(), key=len, reverse=True)
    names = list(dict.fromkeys(name for parts in fullest_first for name in parts))
    longest = max((sum(parts.values()) for parts in rows.values()), default=0.0)
    if longest <= 0:
        return None
    colours = {name: f"s{index % 8}" for index, name in enumerate(names)}
    bars = [_bar(label, parts, colours, longest, unit) for label, parts in rows.items()]
    return Bars(title, note, bars, [(colours[name], name) for name in names])


def _bar(label: str, parts: Mapping[str, float], colours: Mapping[str, str], longest: float, unit: str) -> Bar:
    pieces = [
        (colours[name], 100 * value / longest, f"{name}: {value:,.4g} {unit}".strip())
        for name, value in parts.items()
        if value > 0
    ]
    return Bar(label, f"{sum(parts.values()):,.4g} {unit}".strip(), pieces)


@dataclass(frozen=True)
class _Axes:
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    y_ticks: Sequence[float]

    @staticmethod
    def around(x_range: tuple[float, float], y_range: tuple[float, float]) -> _Axes:
        ticks = _ticks(*y_range)
        if x_range[0] == x_range[1]:
            x_range = (x_range[0] - 0.5, x_range[1] + 0.5)
        return _Axes(x_range, (min(ticks[0], y_range[0]), max(ticks[-1], y_range[1])), ticks)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def grid(self, x_label: str, integers: bool) -> str:
        digits = max(0, -math.floor(math.log10(self.y_ticks[1] - self.y_ticks[0]) + 1e-9))
        out: list[str] = []
        for tick in self.y_ticks:
            y = self.y(tick)
            text = f"{tick:,.{digits}f}" if digits <= 5 else f"{tick:.0e}"
            out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            out.append(
                f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{with_minus_signs(text)}</text>'
            )
        low, high = self.x_range
        for tick in _ticks(low, high, 6, 1.0 if integers else 0.0):
            if low <= tick <= high:
                y = HEIGHT - BOTTOM + 16
                out.append(f'<text class="tick" x="{self.x(tick):.1f}" y="{y}" text-anchor="middle">{tick:g}</text>')
        x, y = (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3
        out.append(f'<text class="axis" x="{x:.0f}" y="{y}" text-anchor="middle">{escape(x_label)}</text>')
        return "".join(out)

    def border(self, x: float, label: str) -> str:
        position = self.x(x)
        return (
            f'<line class="border" x1="{position:.1f}" x2="{position:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text class="axis" x="{position + 4:.1f}" y="{TOP + 9}">{escape(label)}</text>'
        )

    def band(self, line: Line) -> str:
        edges = list(zip(line.points, line.errors, strict=True))
        upper = [(x, y + error) for (x, y), error in edges]
        lower = [(x, y - error) for (x, y), error in reversed(edges)]
        if len(edges) == 1:
            return self.whisker(*line.points[0], line.errors[0])
        return f'<polygon class="band {line.colour}" points="{self._points(upper + lower)}"/>'

    def whisker(self, x: float, y: float, error: float) -> str:
        position, low, high = self.x(x), self.y(y - error), self.y(y + error)
        return f'<path class="whisker" d="M{position:.1f} {low:.1f}V{high:.1f}m-3 0h6M{position - 3:.1f} {low:.1f}h6"/>'

    def line(self, line: Line) -> str:
        style = f"{'faint ' if line.faint else ''}{line.colour}"
        pieces = groupby(line.points, key=lambda point: bisect_right(line.breaks, point[0]))
        out = "".join(f'<polyline class="line {style}" points="{self._points(piece)}"/>' for _, piece in pieces)
        if line.faint or len(line.points) > 30:
            return out
        for index, (x, y) in enumerate(line.points):
            error = f" ± {format_number(line.errors[index])}" if line.errors else ""
            hint = f"{line.label} at {x:g}: {format_number(y)}{error}"
            out += f'<circle class="dot {line.colour}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3.2">'
            out += f"<title>{escape(hint)}</title></circle>"
        return out

    def _points(self, points: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)


def _y_range(lines: Sequence[Line], whiskers: Sequence[float], baseline: float | None) -> tuple[float, float]:
    values = [y for line in lines for _, y in line.points]
    for line in lines:
        values += [y + side * e for (_, y), e in zip(line.points, line.errors, strict=False) for side in (-1, 1)]
    values += [y + side * e for (_, y), e in zip(lines[0].points, whiskers, strict=False) for side in (-1, 1)]
    values += [] if baseline is None else [baseline]
    low, high = min(values), max(values)
    if low == high:
        spread = abs(low) * 0.1 or 0.5
        return low - spread if low != 0 else 0.0, high + spread
    return low, high


def _ticks(low: float, high: float, count: int = 4, smallest: float = 0.0) -> list[float]:
    """About ``count`` round values that enclose ``low`` and ``high``."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(smallest, next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _describe(title: str, lines: Sequence[Line]) -> str:
    ends = [
        f"{line.label} from {format_number(line.points[0][1])} to {format_number(line.points[-1][1])}" for line in lines
    ]
    return f"{title}. " + "; ".join(ends)


def _svg(description: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">'
    return head + "".join(parts) + "</svg>"

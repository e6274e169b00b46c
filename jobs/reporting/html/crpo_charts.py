"""The charts of a CRPO run's report, from its history."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from actors.storage.metrics import Event, History
from jobs.reporting.figures import FIGURES
from jobs.reporting.formatting import MINUS, TIMES
from jobs.reporting.html.charts import Bars, Chart, Line, line_chart, stacked_bars

MOST_POINTS = 400


def heldout_curves(history: History) -> list[Chart]:
    """Every figure of the held-out prompts over the iterations; those without a value are left out."""
    return _drawn(_heldout_curve(history.iterations, name) for name in FIGURES)


def learning_curves(history: History) -> list[Chart]:
    """The learner's measurements at every step of every iteration."""
    steps, rows = history.steps, history.iterations
    return _drawn(
        [
            _step_chart(
                steps,
                "Loss of winner and loser",
                {"winner_loss": "winner", "loser_loss": "loser"},
                "Squared velocity error of the chosen and the rejected sample with the same noise.",
            ),
            _step_chart(
                steps,
                "Implicit margin",
                {"margin": "margin"},
                "The logit in L_DPO-FM: above 0, the policy ranks a pair as the reward does.",
                baseline=0.0,
            ),
            _step_chart(
                steps,
                "Implicit accuracy",
                {"implicit_accuracy": "accuracy"},
                "Share of training pairs whose margin is above 0.",
                baseline=0.5,
            ),
            _step_chart(steps, "L_DPO-FM", {"dpo_loss": "L_DPO-FM"}, "Starts at log 2 = 0.693.", baseline=math.log(2)),
            *_own_terms(steps),
            _step_chart(
                steps,
                "Distance from the reference",
                {"anchor_loss": "distance"},
                "Mean squared difference between the velocities of policy and reference.",
            ),
            _gradient_chart(steps, rows),
            _by_iteration(
                rows,
                "Held-out pair accuracy",
                {"heldout_pair_accuracy": "accuracy"},
                "Share of held-out pairs that the new policy ranks as the reward does.",
                baseline=0.5,
            ),
        ]
    )


def health_curves(history: History) -> list[Chart]:
    """Early signs of a collapse."""
    rows = history.iterations
    return _drawn(
        [
            *_component_charts(rows),
            _by_iteration(
                rows,
                "Spread within groups",
                {"group_spread": "spread"},
                "Standard deviation of the reward among the samples of one prompt, on average.",
            ),
            _by_iteration(
                rows,
                "Diversity",
                {"diversity": "diversity"},
                "Mean distance between two samples of a prompt: 0 if equal, about 1.4 if unrelated.",
            ),
            _by_iteration(
                rows,
                "Silent or clipped audio",
                {"silent_share": "silent", "clipped_share": "clipped"},
                f"Share of samples below {MINUS}60 dBFS, and of those that reach full scale.",
            ),
        ]
    )


def work_bars(history: History) -> list[Bars]:
    """Pairs and stage times of each iteration."""
    rows = history.iterations
    pairs = {_name(row): _numbers(row["pairs"], ("made", "tied", "dropped")) for row in rows if row.get("pairs")}
    times = {_name(row): _numbers(row["seconds"], row["seconds"]) for row in rows if row.get("seconds")}
    bars = [
        stacked_bars("Preference pairs", pairs, note=_pair_note(rows)),
        stacked_bars("Time by stage", times, note="Wall-clock seconds.", unit="s"),
    ]
    return [bar for bar in bars if bar is not None]


def _heldout_curve(rows: Sequence[Event], name: str) -> Chart | None:
    title = FIGURES[name].title
    entries = [(row["iteration"], row.get("heldout", {}).get(name) or {}) for row in rows]
    entries = [(iteration, entry) for iteration, entry in entries if entry.get("mean") is not None]
    line = Line(
        title.lower(),
        [(iteration, entry["mean"]) for iteration, entry in entries],
        [entry.get("se") or 0.0 for _, entry in entries],
        colour="a",
    )
    base = next((entry["mean"] for iteration, entry in entries if iteration == 0), None)
    whiskers = [entry.get("delta_se") or 0.0 for _, entry in entries]
    return line_chart(title, [line], note="", x_label="iteration", baseline=base, whiskers=whiskers)


def _step_chart(
    steps: Sequence[Event], title: str, keys: dict[str, str], note: str, baseline: float | None = None
) -> Chart | None:
    lines = [
        line
        for (key, label), colour in zip(keys.items(), "ab", strict=False)
        for line in _step_lines(steps, key, label, colour)
    ]
    return line_chart(title, lines, note=note, x_label="step", baseline=baseline, borders=_borders(steps))


def _step_lines(steps: Sequence[Event], key: str, label: str, colour: str) -> list[Line]:
    """Every step as a faint line, and the mean of each epoch as a strong one."""
    measured = [(index, row) for index, row in enumerate(steps, start=1) if row.get(key) is not None]
    epochs = groupby(measured, key=lambda item: (item[1]["iteration"], item[1].get("epoch")))
    means = [_centre([(index, row[key]) for index, row in group]) for _, group in epochs]
    breaks = [x for x, _ in _borders(steps)]
    return [
        Line(label, _thinned([(index, row[key]) for index, row in measured]), colour=colour, faint=True, breaks=breaks),
        Line(label, means, colour=colour, breaks=breaks),
    ]


def _own_terms(steps: Sequence[Event]) -> list[Chart | None]:
    """The own terms of objectives other than those on L_DPO-FM."""
    known = {"dpo_loss", "winner_loss", "loser_loss", "anchor_loss"}
    keys = dict.fromkeys(key for step in steps[:1] for key in step if key.endswith("_loss") and key not in known)
    return [_step_chart(steps, f"Term of {key[:-5]}", {key: key[:-5]}, "The objective's own term.") for key in keys]


def _gradient_chart(steps: Sequence[Event], rows: Sequence[Event]) -> Chart | None:
    lines, borders = _step_lines(steps, "grad_norm", "both, every step", "a"), _borders(steps)
    names = {"dpo": "L_DPO-FM alone", "winner": "winner's loss alone"}
    found = dict.fromkeys(term for row in rows for term in row.get("grad_norm") or {})
    for colour, key in zip("bc", found, strict=False):
        label = names.get(key, f"{key} alone")
        lines.append(Line(label, _term_norms(steps, rows, key), colour=colour, breaks=[x for x, _ in borders]))
    note = "Before clipping. The separate terms are measured at the start and the end of each iteration."
    return line_chart("Gradient norm", lines, note=note, x_label="step", borders=borders)


def _term_norms(steps: Sequence[Event], rows: Sequence[Event], key: str) -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = []
    for row in rows:
        xs = [index for index, step in enumerate(steps, start=1) if step["iteration"] == row["iteration"]]
        norms = (row.get("grad_norm") or {}).get(key) or {}
        if xs:
            ends = ((xs[0], norms.get("start")), (xs[-1], norms.get("end")))
            points += [(x, norm) for x, norm in ends if norm is not None]
    return points


def _by_iteration(
    rows: Sequence[Event], title: str, keys: dict[str, str], note: str, baseline: float | None = None
) -> Chart | None:
    lines = [
        Line(label, [(row["iteration"], row[key]) for row in rows if row.get(key) is not None], colour=colour)
        for (key, label), colour in zip(keys.items(), "ab", strict=False)
    ]
    return line_chart(title, lines, note=note, x_label="iteration", baseline=baseline)


def _component_charts(rows: Sequence[Event]) -> list[Chart | None]:
    """A chart for each of the rewards that ranked the rollouts, since each has its own unit."""
    means = {row["iteration"]: row.get("reward_components") or {} for row in rows}
    charts: list[Chart | None] = []
    for name in dict.fromkeys(name for scores in means.values() for name in scores):
        scores = [{"iteration": iteration, "mean": scores.get(name)} for iteration, scores in means.items()]
        charts.append(_by_iteration(scores, f"Rollouts: {name}", {"mean": "mean"}, "Mean raw score of the rollouts."))
    return charts


def _borders(steps: Sequence[Event]) -> list[tuple[float, str]]:
    starts: dict[int, int] = {}
    for index, row in enumerate(steps, start=1):
        starts.setdefault(row["iteration"], index)
    label = "iteration {}" if len(starts) <= 3 else "{}" if len(starts) <= 12 else ""
    return [(x, label.format(iteration)) for iteration, x in starts.items()]


def _centre(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = math.ceil(len(points) / MOST_POINTS) or 1
    return [_centre(points[start : start + size]) for start in range(0, len(points), size)]


def _pair_note(rows: Sequence[Event]) -> str:
    reasons = Counter[str]()
    for row in rows:
        reasons.update((row.get("pairs") or {}).get("reasons") or {})
    counts = ", ".join(f"{count} {TIMES} {reason}" for reason, count in reasons.items())
    return "Groups of one prompt each." + (f" Without a pair: {counts}." if counts else "")


def _numbers(values: dict[str, Any], names: Iterable[str]) -> dict[str, float]:
    return {name: float(values[name]) for name in names if isinstance(values.get(name), int | float)}


def _name(row: Event) -> str:
    return "base" if row["iteration"] == 0 else f"iteration {row['iteration']}"


def _drawn(charts: Iterable[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart is not None]

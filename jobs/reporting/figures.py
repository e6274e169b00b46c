"""The figures of the held-out prompts: their names and meanings, and when reward and truth part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CLEAR = 2.0
"""Standard errors from which a change is called clear."""

ALARM = 1.0
"""Standard errors that a figure must fall by in two iterations running for an alarm."""


@dataclass(frozen=True)
class FigureName:
    """A figure's title and meaning, and whether lower values are better."""

    title: str
    meaning: str
    lower_is_better: bool = False


FIGURES = {
    "reward": FigureName("Reward", "what the run optimises"),
    "judge": FigureName("Judge", "an independent model, never trained against"),
    "recall": FigureName("Recall", "share of the sounds asked for that are heard"),
    "precision": FigureName("Precision", "share of the sounds heard that were asked for"),
    "background": FigureName("Background", "share with a hiss or rumble that nobody asked for; lower is better", True),
    "count": FigureName("Count", "share of the sounds heard that occur as often as asked for"),
    "order": FigureName("Order", "share of consecutive sounds, both heard, in the order asked for"),
    "overlap": FigureName("Overlap", "share of pairs of sounds, both heard, together or apart as asked for"),
    "all_kinds": FigureName("All sounds", "share of prompts with every sound asked for"),
    "set_exact": FigureName("Set exact", "share of prompts with every sound asked for and no other"),
    "exact": FigureName("Exact scenes", "share of prompts with sounds, counts, order and overlap all right"),
}
"""Every figure, in the order in which it is shown: the reward, the judge, and the aspects that a detector hears."""

HEADLINES = ("reward", "judge", "recall", "background", "set_exact", "exact")
"""The figures that a report shows first."""

Entry = Mapping[str, float | None]
"""``mean`` and ``se`` of a figure; ``delta`` and ``delta_se``, its paired change from the base policy; ``step`` and
``step_se``, that from the policy that the iteration started from. None if too few prompts have a score."""


def gain_in_errors(name: str, entry: Entry, change: str = "delta") -> float | None:
    """A figure's paired change in standard errors, positive where it became better; None if there is none.

    Args:
        change: ``delta`` or ``step``.
    """
    value, error = entry.get(change), entry.get(f"{change}_se")
    if value is None or not error:
        return None
    return (-value if lower_is_better(name) else value) / error


def lower_is_better(name: str) -> bool:
    """Whether lower values of a figure are better."""
    return name in FIGURES and FIGURES[name].lower_is_better


def losses(heldout: Mapping[str, Entry], least: float, change: str = "delta") -> dict[str, float]:
    """The figures that became worse by more than ``least`` standard errors while the reward rose, and by how many."""
    if not (heldout.get("reward", {}).get(change) or 0) > 0:
        return {}
    gains = {name: gain_in_errors(name, entry, change) for name, entry in heldout.items() if name != "reward"}
    return {name: -gain for name, gain in gains.items() if gain is not None and gain < -least}


def parting(heldout: Mapping[str, Entry]) -> str | None:
    """One line if the reward rose from the base's and other figures clearly fell; otherwise None."""
    lost = losses(heldout, CLEAR)
    if not lost:
        return None
    changes = [f"{name} {'up' if lower_is_better(name) else 'down'} by {errors:.1f}" for name, errors in lost.items()]
    return f"reward and truth part: reward up, {', '.join(changes)} standard errors"


def alarm(rows: Sequence[Mapping[str, Entry]]) -> list[str]:
    """The figures that became worse by more than their error in each of the last two iterations while the reward rose.

    Compared with the base, or with the policy that the iteration started from: either is enough.

    Args:
        rows: the held-out figures of the iterations after the base, in order.
    """
    if len(rows) < 2:
        return []
    lost: set[str] = set()
    for change in ("delta", "step"):
        before, now = (set(losses(row, ALARM, change)) for row in rows[-2:])
        lost |= before & now
    return [name for name in rows[-1] if name in lost]


def result_iteration(rows: Sequence[Mapping[str, Any]], keep_best: str | None) -> int:
    """The iteration whose policy is a run's result: the best by the figure ``keep_best``, else the last.

    Args:
        rows: the "iteration" events, the base's first.
    """
    return best_iteration(rows, keep_best) if keep_best else rows[-1]["iteration"]


def best_iteration(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    """The iteration with the best held-out mean of a figure, the earliest of equals.

    The prompts on which it was chosen show it better than it is.

    Args:
        rows: see ``result_iteration``.
    """
    means = {row["iteration"]: row["heldout"].get(name, {}).get("mean") for row in rows}
    sign = -1 if lower_is_better(name) else 1
    known = {iteration: sign * mean for iteration, mean in means.items() if mean is not None}
    return max(known, key=lambda iteration: (known[iteration], -iteration)) if known else rows[-1]["iteration"]

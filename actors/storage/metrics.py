"""``metrics.jsonl``: the measurements of a run, one event a line, and the history that a report reads from it.

Every event has ``event`` and ``time`` (unix seconds):

    run        command, seed, config, machine
    step       iteration, step, epoch, loss, winner_loss, anchor_loss (mean squared difference between the velocities of
               policy and reference), the objective's own term such as dpo_loss, learning_rate, grad_norm, seconds;
               loser_loss, margin, implicit_accuracy where the worst samples are trained on
    iteration  iteration, policy_version, heldout and heldout_by_shape (mean, se, delta and step of each figure), alarm
               (figures that fell while the reward rose), loss, pairs, seconds a stage, sample health, gradient norms;
               iteration 0 is the base policy
    end        seconds, iterations, worker_deaths, chunks_retried, chunks_failed, learner_restarts (of the last start)
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.storage.json_lines import JsonLines, read_json_lines

__all__ = ["Event", "History", "MetricsLog", "read_history"]

Event = dict[str, Any]


class MetricsLog:
    """Appends events to ``metrics.jsonl``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = JsonLines(path)

    def write(self, event: str, **values: Any) -> Event:
        """Appends an event with the current time, and returns it as readers will get it."""
        return self._lines.append({"event": event, "time": round(time.time(), 3), **values})

    def read(self) -> list[Event]:
        """All events so far."""
        return self._lines.read()


@dataclass(frozen=True)
class History:
    """A run's events in order, each once: of an event that a resumed run logged again, the latest counts."""

    run: Event
    """Of the latest start of the run; empty if it was not recorded."""
    iterations: list[Event]
    """By iteration; the first is the base policy, iteration 0."""
    steps: list[Event]
    """By iteration and step."""
    end: Event
    """Empty unless the run finished."""


def read_history(path: Path) -> History:
    """The history in ``metrics.jsonl``, empty if the file does not exist.

    Raises:
        DataError: a complete line of the file is not a JSON object.
    """
    events = read_json_lines(path)
    iterations = {row["iteration"]: row for row in events if row.get("event") == "iteration"}
    steps = {(row["iteration"], row["step"]): row for row in events if row.get("event") == "step"}
    last = events[-1] if events else {}
    return History(
        run=next((row for row in reversed(events) if row.get("event") == "run"), {}),
        iterations=[iterations[key] for key in sorted(iterations)],
        steps=[steps[key] for key in sorted(steps)],
        end=last if last.get("event") == "end" else {},
    )

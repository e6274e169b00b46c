"""Progress of a job: one live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import Progress
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.reporting.formatting import MINUS, MISSING, format_delta, format_mean, format_number, format_seconds
from jobs.reporting.tables import format_table

PLAIN_INTERVAL_S = 10.0
ASCII = str.maketrans({"±": "+/-", "·": "|", MINUS: "-", MISSING: "-"})


class Stage:
    """A part of an iteration that counts up to ``total``; a total of 0 is work that cannot be counted."""

    def __init__(self, display: Display, iteration: int, name: str, total: int, unit: str) -> None:
        self.iteration, self.name, self.total, self.unit = iteration, name, total, unit
        self._display = display
        self._skipped = 0
        # Chunks may be minutes apart, so the time left is estimated from the whole stage, not from its last 30 s.
        self._progress = Progress(speed_estimate_period=float("inf"))
        self._progress.add_task(name, total=total or None)
        [self._task] = self._progress.tasks

    def advance(self, n: int = 1, **figures: Any) -> None:
        """Counts ``n`` more units as done and shows ``figures`` (see ``Display.figures``)."""
        self._progress.advance(self._task.id, n)
        self._display.figures(**figures)
        self._display.refresh(self)

    def skip(self, n: int) -> None:
        """Counts ``n`` units as done that an earlier start of the run did; they do not count towards the rate."""
        self._skipped += n
        self._progress.update(self._task.id, total=self.total - self._skipped)

    @property
    def done(self) -> int:
        """Units that are done, skipped ones included."""
        return int(self._task.completed) + self._skipped

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return self._task.elapsed or 0.0

    @property
    def rate(self) -> float:
        """Units a second, without the skipped ones."""
        return self._task.completed / max(self.seconds, 1e-6)

    def progress(self) -> str:
        """``240/480 samples · 38.2 samples/s · 6.0 s left``, as far as it is known.

        The time left does not count the seconds before the first progress, in which processes start.
        """
        if not self.total:
            return format_seconds(self.seconds)
        parts = [f"{self.done}/{self.total} {self.unit}"]
        if self.rate:
            parts.append(f"{self.rate:.1f} {self.unit}/s")
        if self._task.time_remaining is not None:
            parts.append(f"{format_seconds(self._task.time_remaining)} left")
        return " · ".join(parts)

    def result(self) -> str:
        """``12.6 s · 38.1 samples/s``."""
        return format_seconds(self.seconds) + (f" · {self.rate:.1f} {self.unit}/s" if self.rate else "")


class Display:
    """Shows iteration, stage, progress and the latest figures; use it as a context manager.

    Args:
        total_iterations: iterations of the run, without the base (iteration 0); 0 for a job without iterations.
        stream: where to write, standard output by default. A terminal gets a live view; anything else gets a line when
            a stage starts and ends, and at most one every ten seconds in between.
    """

    def __init__(self, total_iterations: int = 0, stream: TextIO | None = None) -> None:
        self.total_iterations = total_iterations
        self.seconds: dict[int, dict[str, float]] = {}
        """Seconds of each stage by iteration; the seconds of a stage that ran twice are added up."""
        self._console = Console(file=stream or sys.stdout, highlight=False)
        self._live = Live(self, console=self._console, transient=True) if self._console.is_terminal else None
        self._stage: Stage | None = None
        self._figures: dict[str, Any] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stage = None
        if self._live:
            self._live.stop()

    @contextmanager
    def stage(self, iteration: int, name: str, total: int = 0, unit: str = "samples") -> Generator[Stage]:
        """Shows ``name`` as the current stage until the block ends, and records its seconds."""
        stage = self._stage = Stage(self, iteration, name, total, unit)
        if not self._live:
            self.note(f"{self._title(stage)} · started" + (f" ({total} {unit})" if total else ""))
        ending = "stopped after"
        try:
            yield stage
            ending = "done in"
        finally:
            stages = self.seconds.setdefault(iteration, {})
            stages[name] = stages.get(name, 0.0) + stage.seconds
            self._stage = None
            self.note(f"{self._title(stage)} · {ending} {stage.result()}")

    def figures(self, **values: Any) -> None:
        """Shows the latest figures: numbers, text, or held-out entries of ``mean``, ``se``, ``delta``, ``delta_se``."""
        self._figures = {**self._figures, **values}  # a new one, because the live view reads it from another thread

    def note(self, text: str, style: str = "") -> None:
        """Prints permanent lines."""
        self._last_line = time.monotonic()
        self._console.print(Text(self._encodable(text), style), soft_wrap=True)

    def refresh(self, stage: Stage) -> None:
        """Prints progress and figures if there is no terminal and the last line is ten seconds old."""
        if not self._live and time.monotonic() - self._last_line >= PLAIN_INTERVAL_S:
            self.note(" · ".join([self._title(stage), stage.progress(), *self._figure_texts()]))

    def summary(
        self,
        base: Mapping[str, Mapping[str, Any]],
        aligned: Mapping[str, Mapping[str, Any]] | None,
        paths: Mapping[str, object],
    ) -> None:
        """Prints base against aligned, and the paths of the results.

        Args:
            base, aligned: ``heldout`` of the base's and the last iteration's event; None if there was no iteration.
            paths: paths by what they hold (such as "report").
        """
        rows = [("held-out", "base", "aligned", "paired change")]
        for name, entry in base.items():
            after = (aligned or {}).get(name) or {}
            rows.append((name, format_mean(entry), format_mean(after), format_delta(after)))
        heading, *lines = format_table(rows).split("\n")
        self.note(f"\n{heading}", style="bold")
        self.note("\n".join(lines))
        locations = [(name, str(path)) for name, path in paths.items()]
        self.note("\n" + (format_table(locations, left=(0, 1)) if locations else ""))

    def __rich__(self) -> RenderableType:
        """The live view, drawn several times a second."""
        stage = self._stage
        if stage is None:
            return Text("")
        progress = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=stage.total, completed=stage.done, width=32) if stage.total else Text("")
        progress.add_row(bar, Text(self._encodable(stage.progress())))
        title = Text(self._encodable(self._title(stage)), style="bold")
        return Group(title, progress, Text(self._encodable("   ".join(self._figure_texts())), style="dim"))

    def _title(self, stage: Stage) -> str:
        if not self.total_iterations:
            return stage.name
        iteration = f"iteration {stage.iteration}/{self.total_iterations}" if stage.iteration else "base"
        return f"{iteration} · {stage.name}"

    def _figure_texts(self) -> list[str]:
        return [f"{name} {_figure(value)}" for name, value in self._figures.items()]

    def _encodable(self, text: str) -> str:
        """``text`` in characters that the stream's encoding has."""
        encoding = self._console.encoding
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            return text.translate(ASCII).encode(encoding, "replace").decode(encoding)
        return text


def _figure(value: Any) -> str:
    if isinstance(value, Mapping):
        if not value.get("delta_se"):
            return format_mean(value)
        return f"{format_number(value.get('mean'))} ({format_delta(value)})"
    return format_number(value) if isinstance(value, float) else str(value)

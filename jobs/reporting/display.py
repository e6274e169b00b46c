"""What a person sees while a job runs: one quiet live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.reporting import formatting

PLAIN_INTERVAL_S = 10.0
PLAINER = str.maketrans({"±": "+/-", "·": "|", formatting.MINUS: "-", formatting.MISSING: "-"})


class Stage:
    """A part of an iteration that counts up to ``total``; a total of 0 is work that cannot be counted."""

    def __init__(self, display: Display, iteration: int, name: str, total: int, unit: str) -> None:
        self.iteration, self.name, self.total, self.unit = iteration, name, total, unit
        self.done = self._skipped = 0
        self._display = display
        self._start = time.monotonic()
        self._first: tuple[float, int] | None = None

    def advance(self, n: int = 1, **figures: Any) -> None:
        """Count ``n`` more units as done, and show ``figures`` (see ``Display.figures``)."""
        self.done += n
        self._first = self._first or (time.monotonic(), self.done)
        self._display.figures(**figures)
        self._display.tick(self)

    def skip(self, n: int) -> None:
        """Count ``n`` units as done that an earlier start of the run did, so that they do not count as speed."""
        self.done += n
        self._skipped += n

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """Units a second, without the skipped ones."""
        return (self.done - self._skipped) / max(self.seconds, 1e-6)

    def progress(self) -> str:
        """``240/480 samples · 38.2 samples/s · 6.3 s left``, as far as it is known."""
        if not self.total:
            return formatting.format_seconds(self.seconds)
        parts = [f"{self.done}/{self.total} {self.unit}"]
        if self.rate:
            parts.append(f"{self.rate:.1f} {self.unit}/s")
        if self.seconds_left is not None:
            parts.append(f"{formatting.format_seconds(self.seconds_left)} left")
        return " · ".join(parts)

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end at the pace since the first progress, before which processes start; None without one."""
        if self._first is None or self.done == self._first[1]:
            return None
        pace = (time.monotonic() - self._first[0]) / (self.done - self._first[1])
        return pace * max(self.total - self.done, 0)

    def result(self) -> str:
        """``12.6 s · 38.1 samples/s``."""
        return formatting.format_seconds(self.seconds) + (f" · {self.rate:.1f} {self.unit}/s" if self.rate else "")


class Display:
    """Shows iteration, stage, progress and the latest figures; use it as a context manager.

    Args:
        total_iterations: iterations of the run, without the base (iteration 0); 0 for a job that has none.
        stream: where to write, by default standard output; live in a terminal, otherwise a line when a stage starts
            and ends and at most one every ten seconds between.
    """

    def __init__(self, total_iterations: int = 0, stream: TextIO | None = None) -> None:
        self.total_iterations = total_iterations
        self.seconds: dict[int, dict[str, float]] = {}
        """Seconds of each stage by iteration; a stage that ran twice counts twice."""
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
        """Show ``name`` as what is going on until the block ends, and record its seconds."""
        stage = self._stage = Stage(self, iteration, name, total, unit)
        if not self._live:
            self._print(f"{self._where(stage)} · started" + (f" ({total} {unit})" if total else ""))
        ending = "stopped after"
        try:
            yield stage
            ending = "done in"
        finally:
            stages = self.seconds.setdefault(iteration, {})
            stages[name] = stages.get(name, 0.0) + stage.seconds
            self._stage = None
            self._print(f"{self._where(stage)} · {ending} {stage.result()}")

    def figures(self, **values: Any) -> None:
        """Show the latest figures: numbers, text, or held-out entries of ``mean``, ``se``, ``delta``, ``delta_se``."""
        self._figures = {**self._figures, **values}  # a new one, because the live view reads it from another thread

    def note(self, text: str) -> None:
        """Print one line that stays."""
        self._print(text)

    def tick(self, stage: Stage) -> None:
        """Called by a stage that moved on: without a terminal, a line every ten seconds."""
        if not self._live and time.monotonic() - self._last_line >= PLAIN_INTERVAL_S:
            words = [f"{name} {_figure(value)}" for name, value in self._figures.items()]
            self._print(" · ".join([self._where(stage), stage.progress(), *words]))

    def summary(
        self,
        base: Mapping[str, Mapping[str, Any]],
        aligned: Mapping[str, Mapping[str, Any]] | None,
        paths: Mapping[str, object],
    ) -> None:
        """Print base against aligned, and where to look and listen.

        Args:
            base, aligned: ``heldout`` of the base's and the last iteration's event; None if there was no iteration.
            paths: what each path is (such as "report") and the path.
        """
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for heading in ("held-out", "base", "aligned", "paired change"):
            table.add_column(heading, justify="left" if heading == "held-out" else "right", header_style="bold")
        for name, entry in base.items():
            after = (aligned or {}).get(name) or {}
            cells = (formatting.format_mean(entry), formatting.format_mean(after), formatting.format_delta(after))
            table.add_row(name, *map(self._fitting, cells))
        self._console.print()
        self._console.print(table)
        self._console.print()
        width = max(map(len, paths), default=0)
        for name, path in paths.items():
            self._print(f"{name:<{width}}  {path}")

    def __rich__(self) -> RenderableType:
        """The live view, drawn several times a second."""
        stage = self._stage
        if stage is None:
            return Text("")
        figures = "   ".join(f"{name} {_figure(value)}" for name, value in self._figures.items())
        progress = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=stage.total, completed=stage.done, width=32) if stage.total else Text("")
        progress.add_row(bar, Text(self._fitting(stage.progress())))
        where = Text(self._fitting(self._where(stage)), style="bold")
        return Group(where, progress, Text(self._fitting(figures), style="dim"))

    def _where(self, stage: Stage) -> str:
        if not self.total_iterations:
            return stage.name
        place = f"iteration {stage.iteration}/{self.total_iterations}" if stage.iteration else "base"
        return f"{place} · {stage.name}"

    def _print(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._console.print(Text(self._fitting(text)), soft_wrap=True)

    def _fitting(self, text: str) -> str:
        """``text`` in characters that the stream can write, whatever its encoding."""
        encoding = self._console.encoding
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            return text.translate(PLAINER).encode(encoding, "replace").decode(encoding)
        return text


def _figure(value: Any) -> str:
    if isinstance(value, Mapping):
        if not value.get("delta_se"):
            return formatting.format_mean(value)
        return f"{formatting.format_number(value.get('mean'))} ({formatting.format_delta(value)})"
    return formatting.format_number(value) if isinstance(value, float) else str(value)

"""``report.html`` of a pretraining: its losses, and samples of the same captions during training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from actors.storage.metrics import Event, MetricsLog
from actors.storage.samples import Sample
from jobs.reporting.html.audio_cards import audio_cards
from jobs.reporting.html.charts import Chart, Line, line_chart
from jobs.reporting.html.pages import render_page, write_page

MOST_SETS = 4
"""Sets of samples on the page, spread evenly from the first to the last."""


def write_pretraining_report(output: Path) -> Path:
    """Writes ``output/report.html`` from ``metrics.jsonl`` and ``samples/``, and returns its path.

    Raises:
        ResourceError: the disk is full or the directory cannot be written.
    """
    events = MetricsLog(output / "metrics.jsonl").read()
    run = [event for event in events if event["event"] == "run"][-1]
    # A step that was repeated after an interruption replaces the earlier one.
    latest = {(event["event"], event.get("step")): event for event in events}.values()
    of_kind = {
        kind: [event for event in latest if event["event"] == kind] for kind in ("step", "validation", "samples")
    }
    samples = [sample for event in _spread(of_kind["samples"]) for sample in _samples(event, run["prompts"])]
    cards, top_hz = audio_cards(output / "samples", samples)
    page = render_page(
        "pretraining.html.j2",
        name=output.resolve().name,
        policy=run["config"]["init_policy"],
        miniature=run["config"]["init_policy"] == "miniature",
        steps=max((event["step"] for event in of_kind["step"]), default=0),
        clips=f"{run['clips']} clips, {run['hours']:.2f} h",
        charts=[chart for chart in _charts(of_kind["step"], of_kind["validation"]) if chart],
        cards=[(card.prompt, card.after) for card in cards],
        top_khz=top_hz / 1000,
    )
    return write_page(output / "report.html", page)


def _charts(steps: Sequence[Event], validations: Sequence[Event]) -> list[Chart | None]:
    means = [
        (_mean([row["step"] for row in group]), _mean([row["loss"] for row in group]))
        for group in ([*rows] for _, rows in groupby(steps, key=lambda row: (row["step"] - 1) * 100 // len(steps)))
    ]
    held_out = [(float(event["step"]), float(event["loss"]["mean"])) for event in validations]
    sigmas = sorted(set(validations[-1]["loss"]) - {"mean"}) if validations else []
    last = [(float(sigma), float(validations[-1]["loss"][sigma])) for sigma in sigmas]
    note = "Means over a hundredth of the steps each; sigma, noise and captions differ between steps."
    return [
        line_chart("Training", [Line("training", means)], note=note, x_label="step"),
        line_chart(
            "Held-out clips", [Line("held out", held_out, colour="b")], note="Fixed noise, 8 sigmas.", x_label="step"
        ),
        line_chart(
            "Held-out clips by sigma",
            [Line("held out", last, colour="b")],
            note="At the end; sigma 1 is noise.",
            x_label="sigma",
        ),
    ]


def _spread(sets: Sequence[Event]) -> list[Event]:
    """At most ``MOST_SETS`` of them, including the first and the last."""
    if len(sets) <= MOST_SETS:
        return list(sets)
    return [sets[round(index * (len(sets) - 1) / (MOST_SETS - 1))] for index in range(MOST_SETS)]


def _samples(event: Event, prompts: Sequence[Any]) -> list[Sample]:
    return [
        Sample(event["step"], str(index), text, seconds, file)
        for index, (file, (text, seconds)) in enumerate(zip(event["files"], prompts, strict=False))
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

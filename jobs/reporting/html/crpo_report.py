"""The report of a CRPO run: one HTML file that opens from disk, without a network."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actors.storage.metrics import Event, History, read_history
from actors.storage.samples import read_samples
from jobs.reporting import formatting
from jobs.reporting.html.audio_cards import audio_cards
from jobs.reporting.html.crpo_charts import HELDOUT, health_curves, heldout_curves, learning_curves, work_bars
from jobs.reporting.html.pages import render_page, write_page
from tangoflux.errors import DataError


def write_report(run_dir: Path) -> Path:
    """Writes ``run_dir/report.html`` from ``metrics.jsonl`` and ``samples/``, and returns its path.

    Raises:
        DataError: ``run_dir`` is not a run's directory, or one of its files is damaged.
        ResourceError: the disk is full or the directory cannot be written.
    """
    if not (run_dir / "metrics.jsonl").is_file():
        raise DataError(f"{run_dir} is no run directory: it has no metrics.jsonl; give the --run-dir of a run")
    return write_page(run_dir / "report.html", render_report(run_dir))


def render_report(run_dir: Path) -> str:
    """The report of ``run_dir`` as one HTML page."""
    history = read_history(run_dir / "metrics.jsonl")
    samples = read_samples(run_dir / "samples")
    cards, top_hz = audio_cards(run_dir / "samples", samples)
    return render_page(
        "crpo.html.j2",
        facts=_facts(history, run_dir),
        headlines=_headlines(history),
        heldout=heldout_curves(history),
        learning=learning_curves(history),
        health=health_curves(history),
        work=work_bars(history),
        iterations=history.iterations,
        heldout_names=HELDOUT,
        cards=cards,
        measured=[name for name in HELDOUT if any(getattr(sample, name) is not None for sample in samples)],
        top_khz=top_hz / 1000,
        settings=_settings(history.run.get("config") or {}),
        machine=_machine(history.run.get("machine") or {}),
    )


@dataclass(frozen=True)
class Facts:
    """The run, for the head of the page."""

    name: str
    date: str
    policy: str
    miniature: bool
    iterations: int
    state: str
    command: str
    key_settings: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Headline:
    """One held-out figure of the base and the aligned policy; ``direction`` is up, down, flat or none."""

    title: str
    meaning: str
    model: str
    base: Mapping[str, Any]
    aligned: Mapping[str, Any] | None
    direction: str
    verdict: str


def _facts(history: History, run_dir: Path) -> Facts:
    config = history.run.get("config") or {}
    policy = str(config.get("init_policy", "unknown"))
    started = history.run.get("time")
    return Facts(
        name=run_dir.resolve().name,
        date="" if started is None else f"{datetime.fromtimestamp(started, UTC):%Y-%m-%d %H:%M} UTC",
        policy=policy,
        miniature=policy == "miniature",
        iterations=max((row["iteration"] for row in history.iterations), default=0),
        state=_state(history, config),
        command=shlex.join(history.run.get("command") or []),
        key_settings=_key_settings(config),
    )


def _state(history: History, config: Mapping[str, Any]) -> str:
    done = max((row["iteration"] for row in history.iterations), default=None)
    if history.end:
        return f"finished in {formatting.format_seconds(history.end.get('seconds'))}"
    if done is None:
        return "no measurements yet"
    return f"stopped or still running: {done} of {config.get('iterations', '?')} iterations done"


def _key_settings(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    learner, rewards = config.get("learner") or {}, config.get("rewards") or {}
    per_iteration = (
        f"{config.get('prompts_per_iteration', '?')} {formatting.TIMES} {config.get('num_samples', '?')} samples"
    )
    found = [
        ("Objective", config.get("objective")),
        ("Data", config.get("data")),
        ("Prompts per iteration", per_iteration if "prompts_per_iteration" in config else None),
        ("Reward", rewards.get("name")),
        ("Beta", learner.get("beta")),
        ("Learning rate", learner.get("learning_rate")),
        ("Batch", f"{learner['batch_size']} pairs" if "batch_size" in learner else None),
        ("Epochs", learner.get("epochs")),
        ("Seed", config.get("seed")),
    ]
    return [(name, _show(value)) for name, value in found if value is not None]


def _headlines(history: History) -> list[Headline]:
    rows = [row for row in history.iterations if row.get("heldout")]
    rewards = (history.run.get("config") or {}).get("rewards") or {}
    models = {"reward": rewards.get("name"), "judge": rewards.get("judge"), "exact": rewards.get("detector")}
    return [
        _headline(name, rows, str(models[name] or ""))
        for name in HELDOUT
        if rows and rows[0]["iteration"] == 0 and (rows[0]["heldout"].get(name) or {}).get("mean") is not None
    ]


def _headline(name: str, rows: Sequence[Event], model: str) -> Headline:
    base = rows[0]["heldout"][name]
    aligned = rows[-1]["heldout"].get(name) if len(rows) > 1 else None
    direction, verdict = _verdict(aligned)
    return Headline(*HELDOUT[name], model, base, aligned, direction, verdict)


def _verdict(aligned: Mapping[str, Any] | None) -> tuple[str, str]:
    """The direction of a change and its size in standard errors; below two it is "no clear change"."""
    if aligned is None or aligned.get("delta") is None:
        return "none", "not aligned yet"
    delta, error = aligned["delta"], aligned.get("delta_se")
    if not error:
        return "flat", "unchanged" if delta == 0 else "no standard error"
    errors = f"{abs(delta) / error:.1f} standard errors"
    if abs(delta) < 2 * error:
        return "flat", f"no clear change ({errors})"
    return ("up", f"up by {errors}") if delta > 0 else ("down", f"down by {errors}")


def _settings(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The config as titled groups of rows: first the top level, then each section."""
    top = [(key, _show(value)) for key, value in config.items() if not isinstance(value, Mapping)]
    groups = [
        (key, [(inner, _show(value)) for inner, value in section.items()])
        for key, section in config.items()
        if isinstance(section, Mapping)
    ]
    return [("run", top), *groups] if config else []


def _show(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_show, value))
    if isinstance(value, float):
        return f"{value:g}"
    return formatting.MISSING if value is None or value == "" else str(value)


def _machine(machine: Mapping[str, Any]) -> str:
    formats = {"cpus": "{} CPUs", "memory_gb": "{} GB of memory", "gpus": "{}"}
    if not machine:
        return ""
    values = {**machine, "gpus": ", ".join(machine.get("gpus") or ["no GPU"])}
    return " · ".join(formats.get(key, key + " {}").format(value) for key, value in values.items())

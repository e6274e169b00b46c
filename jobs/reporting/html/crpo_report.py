"""The report of a CRPO run: one HTML file that opens from disk, without a network."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actors.learner.objectives import OBJECTIVES
from actors.storage.metrics import Event, History, read_history
from actors.storage.samples import SHOWN, read_samples
from jobs.reporting import formatting
from jobs.reporting.figures import CLEAR, FIGURES, HEADLINES, gain_in_errors, parting, result_iteration
from jobs.reporting.html.audio_cards import audio_cards
from jobs.reporting.html.crpo_charts import health_curves, heldout_curves, learning_curves, work_bars
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
        parting=parting((_result(history) or {}).get("heldout") or {}),
        alarms=[(row["iteration"], row["alarm"]) for row in history.iterations if row.get("alarm")],
        aspects=_aspects(history),
        shapes=_shapes(history),
        heldout=heldout_curves(history),
        learning=learning_curves(history),
        health=health_curves(history),
        work=work_bars(history),
        iterations=history.iterations,
        heldout_names={name: FIGURES[name] for name in HEADLINES},
        cards=cards,
        measured=[name for name in SHOWN if any(getattr(sample, name) is not None for sample in samples)],
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
        ("Beta", learner.get("beta") or _default_beta(config)),
        ("Learning rate", learner.get("learning_rate")),
        ("Batch", f"{learner['batch_size']} pairs" if "batch_size" in learner else None),
        ("Epochs", learner.get("epochs")),
        ("Seed", config.get("seed")),
    ]
    return [(name, _show(value)) for name, value in found if value is not None]


def _default_beta(config: Mapping[str, Any]) -> Any:
    objective = OBJECTIVES.get(config.get("objective", ""))
    return objective.options.get("beta") if objective else None


def _headlines(history: History) -> list[Headline]:
    measured = _measured(history)
    rewards = (history.run.get("config") or {}).get("rewards") or {}
    models = {"reward": rewards.get("name"), "judge": rewards.get("judge")}
    result = (_result(history) or {}).get("heldout")
    headlines: list[Headline] = []
    for name in HEADLINES:
        if name in measured:
            aligned, figure = result and result.get(name), FIGURES[name]
            model = str(models.get(name, rewards.get("detector")) or "")
            headlines.append(
                Headline(figure.title, figure.meaning, model, measured[name], aligned, *_verdict(name, aligned))
            )
    return headlines


def _measured(history: History) -> dict[str, Mapping[str, Any]]:
    """The base policy's entry of each figure that was measured, in the order of ``FIGURES``."""
    base = next((row.get("heldout") or {} for row in history.iterations if row["iteration"] == 0), {})
    return {name: base[name] for name in FIGURES if (base.get(name) or {}).get("mean") is not None}


def _result(history: History) -> Event | None:
    """The event of the iteration whose policy is the run's result; None before the first iteration."""
    rows = [row for row in history.iterations if row.get("heldout")]
    number = result_iteration(rows, (history.run.get("config") or {}).get("keep_best")) if rows else 0
    return next((row for row in rows if row["iteration"] == number > 0), None)


def _verdict(name: str, aligned: Mapping[str, Any] | None) -> tuple[str, str]:
    """The direction of a change (up is better) and its size in standard errors; below two it is "no clear change"."""
    if aligned is None or aligned.get("delta") is None:
        return "none", "not aligned yet"
    gain = gain_in_errors(name, aligned)
    if gain is None:
        return "flat", "unchanged" if aligned["delta"] == 0 else "no standard error"
    errors = f"{abs(gain):.1f} standard errors"
    if abs(gain) < CLEAR:
        return "flat", f"no clear change ({errors})"
    return "up" if gain > 0 else "down", f"{'up' if aligned['delta'] > 0 else 'down'} by {errors}"


@dataclass(frozen=True)
class Aspect:
    """A row of the table of all held-out figures."""

    title: str
    meaning: str
    base: str
    aligned: str
    change: str
    direction: str
    verdict: str


def _aspects(history: History) -> list[Aspect]:
    result = (_result(history) or {}).get("heldout") or {}
    rows: list[Aspect] = []
    for name, base in _measured(history).items() if result else ():
        entry, figure = result.get(name) or {}, FIGURES[name]
        means = formatting.format_mean(base), formatting.format_mean(entry), formatting.format_delta(entry)
        rows.append(Aspect(figure.title, figure.meaning, *means, *_verdict(name, entry)))
    return rows


def _shapes(history: History) -> list[tuple[str, list[tuple[str, str]]]]:
    """For each kind of prompt the change and its direction of every figure that was measured."""
    by_shape = (_result(history) or {}).get("heldout_by_shape") or {}
    names = _measured(history)
    return [
        (shape, [(formatting.format_delta(row.get(name) or {}), _verdict(name, row.get(name))[0]) for name in names])
        for shape, row in by_shape.items()
    ]


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

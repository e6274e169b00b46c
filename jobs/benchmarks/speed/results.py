"""Measurements as values for JSON and as a Markdown table."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from jobs.benchmarks.speed.settings import Settings
from jobs.benchmarks.speed.timing import Measured
from jobs.reporting.formatting import format_number
from tangoflux.pipeline import TangoFlux

SOURCE = Path(__file__).parent


def facts(settings: Settings, model: TangoFlux) -> dict[str, Any]:
    """The conditions of the measurement: machine, versions, options, sizes."""
    policy, autoencoder = model.policy, model.autoencoder
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "machine": _machine(),
        "versions": {"python": platform.python_version(), "commit": _commit(SOURCE)}
        | {name: version(name) for name in ("torch", "diffusers", "transformers")},
        "settings": {key: value for key, value in asdict(settings).items() if key != "repository"},
        "baseline": _baseline(settings.repository),
        "training": "torch's AdamW, without Ray and DeepSpeed, on both sides",
        "policy": policy.config.to_dict(),
        "policy_parameters": sum(parameter.numel() for parameter in policy.trainable_parameters()),
        "text_encoder": policy.text_encoder.config.to_diff_dict(),
        "codec": asdict(autoencoder.config),
        "pairs": settings.model.pairs,
    }


def section(measured: Sequence[Measured], ceilings: Mapping[str, float]) -> dict[str, Any]:
    """Every side with its rounds, and its speed relative to the sides it is compared with."""
    by_name = {result.side.name: result for result in measured}
    return {
        "sides": {name: _side(result, ceilings) for name, result in by_name.items()},
        "comparisons": [
            entry
            for result in measured
            for other in result.side.against
            for entry in _comparisons(result, by_name[other])
        ],
    }


def markdown(report: Mapping[str, Any]) -> str:
    """The comparisons as a Markdown table, and a line on the conditions of the measurement."""
    lines = ["| | ours | published | times as good |", "|---|---|---|---|"]
    lines += [_row(name, entry) for name, part in report["sections"].items() for entry in part["comparisons"]]
    machine, settings = report["machine"], report["settings"]
    return "\n".join(lines) + (
        f"\n\nMedians of {settings['rounds']} rounds (least–most): {machine['gpu'] or machine['cpu']}, "
        f"{machine['threads']} threads, load {machine['load_before']} at the start; size {settings['size']}, "
        f"{report['policy_parameters'] / 1e6:.0f}M parameters, {settings['num_steps']} Euler steps; ours in "
        f"{settings['precision']}{' compiled' if settings['compiled'] else ''}; published: {report['baseline']}."
    )


def _machine() -> dict[str, Any]:
    load = os.getloadavg()[0]
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_before": round(load, 1),
    }


def _baseline(repository: Path | None) -> str:
    if repository is None:
        return "the published code's steps, reimplemented"
    return f"the published code, commit {_commit(repository) or 'unknown'}"


def _cpu_name() -> str:
    """The CPU's name on Linux, else its architecture."""
    file = Path("/proc/cpuinfo")
    names = [line for line in file.read_text().splitlines() if line.startswith("model name")] if file.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.machine()


def _commit(directory: Path) -> str | None:
    """The commit of a clone, with ``+`` if files differ from it."""
    git = ["git", "-C", str(directory), "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _side(result: Measured, ceilings: Mapping[str, float]) -> dict[str, Any]:
    side = result.side
    values: dict[str, Any] = {"precision": side.precision, "work": side.work, "unit": side.unit}
    for part, laps in result.laps.items():
        tflops = laps.tflop / median(laps.seconds)
        values[part] = {
            "seconds": laps.seconds,
            "tflop": laps.tflop,
            "tflops": tflops,
            "share_of_ceiling": tflops / ceilings[side.precision],
        }
    return values | ({"peak_gb": result.peak_gb} if result.peak_gb else {})


def _comparisons(ours: Measured, theirs: Measured) -> list[dict[str, Any]]:
    """Comparisons of every part, and of the peak memory if it was measured."""
    unit = ours.side.unit
    names = {"ours": ours.side.name, "published": theirs.side.name}
    found: list[dict[str, Any]] = []
    for part in ours.laps:
        costs = [_seconds_each(result, part) for result in (ours, theirs)]
        values = costs if unit == "s" else [[1 / cost for cost in side] for side in costs]
        shown = {"part": part, "unit": unit if unit == "s" else f"{unit}/s"}
        found.append({**names, **shown, **_compared(values, costs)})
    if ours.peak_gb:
        peaks = [ours.peak_gb, theirs.peak_gb]
        found.append({**names, "part": "peak memory", "unit": "GB", **_compared(peaks, peaks)})
    return found


def _seconds_each(result: Measured, part: str) -> list[float]:
    return [seconds / result.side.work for seconds in result.laps[part].seconds]


def _compared(values: Sequence[Sequence[float]], costs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Medians of both sides, and the ratios of their costs, round by round."""
    ratios = [theirs / ours for ours, theirs in zip(*costs, strict=True)]
    return {
        "ours_median": median(values[0]),
        "published_median": median(values[1]),
        "times_as_good": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
    }


def _row(name: str, entry: Mapping[str, Any]) -> str:
    cells = [f"{name}, {entry['part']}"]
    for side in ("ours", "published"):
        note = entry[side].removeprefix(side).lstrip(", ")
        cells.append(f"{note + ': ' if note else ''}{format_number(entry[f'{side}_median'])} {entry['unit']}")
    times = entry["times_as_good"]
    cells.append(f"{times['median']:.2f} ({times['min']:.2f}–{times['max']:.2f})")
    return f"| {' | '.join(cells)} |"

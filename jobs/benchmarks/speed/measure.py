"""The speed measurement: all sections one after the other, as JSON and as a table."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from actors.storage.atomic import atomic_write
from jobs.benchmarks.published_code import load_published
from jobs.benchmarks.speed.audio import measure_audio
from jobs.benchmarks.speed.results import facts, markdown, section
from jobs.benchmarks.speed.rollouts import rollout_sides
from jobs.benchmarks.speed.settings import Settings, quiet
from jobs.benchmarks.speed.sizes import SIZES, random_model
from jobs.benchmarks.speed.timing import PRECISIONS, Measured, matmul_tflops, time_sides
from jobs.benchmarks.speed.training import training_sides
from jobs.options.bench import SECTIONS, SpeedOptions
from jobs.stages.output_dir import FLAG
from jobs.stages.run_dir import check_writable_file
from tangoflux.errors import ConfigError, DataError
from tangoflux.pipeline import TangoFlux
from tangoflux.sampling_params import uses_bf16


def run(options: SpeedOptions) -> None:
    """Measures, writes the JSON file and prints the table; with ``--table`` only prints that of a file."""
    if options.table:
        print(markdown(_read(options.table)))
        return
    settings = settings_of(options)
    if options.output:
        check_writable_file(options.output, FLAG)
    quiet()
    print(markdown(measure(settings, options)))


def measure(settings: Settings, options: SpeedOptions) -> dict[str, Any]:
    """The report of all sections; ``--output`` is written after each section."""
    model = random_model(settings.model).to(settings.device)
    report = facts(settings, model)
    ceilings = {precision: matmul_tflops(settings.device, precision) for precision in PRECISIONS}
    report |= {"matmul_tflops": ceilings, "sections": {}}
    for name in (name for name in SECTIONS if name in options.only):
        report["sections"][name] = section(_measure_section(name, model, settings, partial(_log, name)), ceilings)
        if options.output:
            with atomic_write(options.output) as temporary:
                temporary.write_text(json.dumps(report, indent=2) + "\n")
    return report


def settings_of(options: SpeedOptions) -> Settings:
    """The settings of the measurement.

    Raises:
        ConfigError: this machine cannot run it.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no GPU on this machine; use --device cpu")
    if options.compile and not shutil.which("c++"):
        raise ConfigError("--compile needs a C++ compiler, but c++ is not on the PATH: install one, or drop --compile")
    if options.published:
        load_published(options.published)
    size = SIZES[options.size]
    return Settings(
        size=options.size,
        device=options.device,
        precision="bf16" if uses_bf16(options.precision, options.device) else "fp32",
        compiled=options.compile,
        rounds=options.rounds,
        num_steps=options.num_steps or size.num_steps,
        batches=options.batches or size.batches,
        repository=options.published,
    )


def _measure_section(name: str, model: TangoFlux, settings: Settings, log: Callable[[str], None]) -> list[Measured]:
    if name == "audio":
        return measure_audio(settings, log)
    sides, transformers = (rollout_sides if name == "rollouts" else training_sides)(model, settings)
    return time_sides(sides, settings.rounds, settings.device, log, transformers if settings.compiled else ())


def _read(file: Path) -> dict[str, Any]:
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        markdown(report)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"--table {file} is not a file of --output: {error}") from error
    return report


def _log(name: str, line: str) -> None:
    print(f"{name}: {line}", file=sys.stderr, flush=True)

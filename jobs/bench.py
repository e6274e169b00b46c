"""Measures this code's speed beside the published code's: rollouts, CRPO training steps, single audios.

python jobs/bench.py --output benchmarks/cpu-mid.json                 # a few minutes on a CPU
python jobs/bench.py --published path/to/TangoFlux                    # beside a clone of the published code itself
python jobs/bench.py --size full --device cuda --compile              # the paper's model on a GPU
python jobs/bench.py --table benchmarks/cpu-mid.json                  # Markdown of what was measured
python jobs/bench.py orchestration                                    # what the driver of a run costs
python jobs/bench.py overlap                                          # how much of a rollout stage is sampling
python jobs/bench.py serve                                            # the endpoint under load
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
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
from tangoflux.cli import run_main
from tangoflux.errors import ConfigError, DataError
from tangoflux.pipeline import TangoFlux
from tangoflux.sampling_params import uses_bf16

SECTIONS = ("rollouts", "training", "audio")

EPILOG = """\
Both sides have the same random weights and do the same work at the same number of frames, in turn, round after round;
ratios are taken within a round, so that they hold on a busy machine too. The published side is one prompt at a time,
in float32, with VAE and text encoder in every training step: the published code of a clone (--published), or its steps
written plainly. An operation count gives each side's share of the fastest matrix product measured here.

Needs torch, diffusers, transformers and pyarrow, but neither Ray nor DeepSpeed: from a source tree without an
installation, PYTHONPATH=. python jobs/bench.py. --table reads a finished file and measures nothing.
Sizes: tiny (a trial of seconds), mid (11M parameters, a CPU's minutes), full (the paper's 517M, for a GPU)."""


WITH_RAY = {"orchestration": "orchestration", "overlap": "overlap", "serve": "load"}
"""Measurements that need Ray, which the rest runs without, and their modules."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, writes JSON, prints the table."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] and given[0] in WITH_RAY:
        return import_module(f"jobs.benchmarks.{WITH_RAY[given[0]]}").main(given[1:])
    arguments = _parser().parse_args(given)
    if arguments.table:
        print(markdown(_read(arguments.table)))
        return 0
    settings, output = _settings(arguments), _writable(arguments.output)
    quiet()
    print(markdown(measure(settings, arguments.only, output)))
    return 0


def measure(settings: Settings, sections: Sequence[str], output: Path | None) -> dict[str, Any]:
    """The report of all sections, which is also in ``output`` as soon as each is done."""
    model = random_model(settings.model).to(settings.device)
    report = facts(settings, model)
    ceilings = {precision: matmul_tflops(settings.device, precision) for precision in PRECISIONS}
    report |= {"matmul_tflops": ceilings, "sections": {}}
    for name in SECTIONS:
        if name in sections:
            say = partial(_say, name)
            report["sections"][name] = section(_measured(name, model, settings, say), ceilings)
            if output:
                with atomic_write(output) as temporary:
                    temporary.write_text(json.dumps(report, indent=2) + "\n")
    return report


def _measured(name: str, model: TangoFlux, settings: Settings, say: Callable[[str], None]) -> list[Measured]:
    if name == "audio":
        return measure_audio(settings, say)
    sides, transformers = (rollout_sides if name == "rollouts" else training_sides)(model, settings)
    return time_sides(sides, settings.rounds, settings.device, say, transformers if settings.compiled else ())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python jobs/bench.py", description=__doc__, epilog=EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--size", choices=SIZES, default="mid", help="of the model and of the work [mid]")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="[cpu]")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="ours; auto: bf16 where the processor computes in it [auto]",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the blocks of our transformer (needs a C++ compiler)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each side [5]")
    parser.add_argument("--steps", type=int, help="Euler steps of a sample [tiny 2, mid 4, full 50]")
    parser.add_argument(
        "--batches",
        type=int,
        nargs="+",
        metavar="N",
        help="numbers of prompts that our rollouts sample at once, 5 samples each [tiny 1 2, mid 1 4, full 1 8 16]",
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="what is measured [all]")
    parser.add_argument("--published", type=Path, metavar="CLONE", help="a clone of github.com/declare-lab/TangoFlux")
    parser.add_argument("--output", type=Path, metavar="JSON", help="where everything that was measured goes")
    parser.add_argument("--table", type=Path, metavar="JSON", help="print the table of this file instead")
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    """What was asked for.

    Raises:
        ConfigError: it cannot be measured here.
    """
    size = SIZES[arguments.size]
    num_steps = size.num_steps if arguments.steps is None else arguments.steps
    batches = arguments.batches or size.batches
    for option, value in (("--rounds", arguments.rounds), ("--steps", num_steps), ("--batches", min(batches))):
        if value < 1:
            raise ConfigError(f"{option} {value}: give 1 or more")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no GPU here; take --device cpu")
    if arguments.compile and not shutil.which("c++"):
        raise ConfigError(
            "--compile needs a C++ compiler, and no c++ is on the PATH: install one or leave --compile out"
        )
    if arguments.published:
        load_published(arguments.published)
    precision = "bf16" if uses_bf16(arguments.precision, arguments.device) else "fp32"
    return Settings(
        size=arguments.size,
        device=arguments.device,
        precision=precision,
        compiled=arguments.compile,
        rounds=arguments.rounds,
        num_steps=num_steps,
        batches=tuple(batches),
        repository=arguments.published,
    )


def _writable(output: Path | None) -> Path | None:
    """The same, with its folder made, before anything is measured."""
    if output:
        if output.is_dir():
            raise ConfigError(f"--output {output} is a folder: name a file in it")
        output.parent.mkdir(parents=True, exist_ok=True)
    return output


def _read(file: Path) -> dict[str, Any]:
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        markdown(report)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"--table {file} cannot be read as a file of --output: {error}") from error
    return report


def _say(name: str, line: str) -> None:
    print(f"{name}: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_main(main)

"""What every command has in common: help that teaches at once, and one line about what is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

from actors.options.command_line import Command
from actors.options.schema import Options, option_fields
from jobs.options import (
    bench,
    build_miniature,
    chaos,
    check_published,
    crpo,
    generate,
    prepare,
    pretrain,
    record_soundworld,
    rollout,
    runs,
    score,
    train,
)
from serve import options as serve
from tangoflux.errors import ConfigError

JOBS = Path(__file__).parents[2] / "jobs"

COMMANDS: dict[str, tuple[str, type[Options], Command, Sequence[str]]] = {
    "crpo": ("jobs.crpo", crpo.RunConfig, crpo.COMMAND, ()),
    "rollout": ("jobs.rollout", rollout.RolloutJob, rollout.COMMAND, ()),
    "score": ("jobs.score", score.ScoreJob, score.COMMAND, ()),
    "train": ("jobs.train", train.TrainJob, train.COMMAND, ()),
    "prepare": ("jobs.prepare", prepare.PrepareJob, prepare.COMMAND, ()),
    "pretrain": ("jobs.pretrain", pretrain.PretrainJob, pretrain.COMMAND, ()),
    "generate": ("jobs.generate", generate.GenerateOptions, generate.COMMAND, ()),
    "report": ("jobs.report", runs.ReportOptions, runs.REPORT, ()),
    "compare": ("jobs.compare", runs.CompareOptions, runs.COMPARE, ()),
    "scale": ("jobs.scale", runs.ScaleOptions, runs.SCALE, ()),
    "chaos": ("jobs.chaos", chaos.ChaosOptions, chaos.COMMAND, ()),
    "bench": ("jobs.bench", bench.SpeedOptions, bench.SPEED, ()),
    "bench orchestration": ("jobs.bench", bench.OrchestrationOptions, bench.ORCHESTRATION, ("orchestration",)),
    "bench overlap": ("jobs.bench", bench.OverlapOptions, bench.OVERLAP, ("overlap",)),
    "bench serve": ("jobs.bench", bench.LoadOptions, bench.LOAD, ("serve",)),
    "bench objectives": ("jobs.bench", bench.ObjectivesOptions, bench.OBJECTIVES_COMMAND, ("objectives",)),
    "bench best-of": ("jobs.bench", bench.BestOfOptions, bench.BEST_OF, ("best-of",)),
    "check_published": ("jobs.check_published", check_published.CheckOptions, check_published.COMMAND, ()),
    "build_miniature": ("jobs.build_miniature", build_miniature.BuildOptions, build_miniature.COMMAND, ()),
    "record_soundworld": ("jobs.record_soundworld", record_soundworld.RecordOptions, record_soundworld.COMMAND, ()),
    "serve": ("serve.run", serve.ServeOptions, serve.COMMAND, ()),
}

every_command = pytest.mark.parametrize("name", COMMANDS)


def main_of(name: str) -> Callable[[Sequence[str]], int]:
    module, _, _, first = COMMANDS[name]
    main = import_module(module).main
    return lambda arguments: main([*first, *arguments])


def test_every_script_is_here() -> None:
    scripts = {file.stem for file in JOBS.glob("*.py")} - {"__init__"}
    assert scripts == {module.removeprefix("jobs.") for module, *_ in COMMANDS.values()} - {"serve.run"}


@every_command
def test_help_has_a_description_examples_and_every_option_with_its_default(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, model, command, _ = COMMANDS[name]
    with pytest.raises(SystemExit) as ended:
        main_of(name)(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {command.program} ")
    assert command.description in text and command.examples in text and command.program in command.examples
    for option in option_fields(model):
        assert f"{option.flag} " in text
        assert (option.field.description and "default" in option.help) or "required" in option.help


@every_command
def test_a_misspelt_option_is_one_line_that_names_the_right_one(name: str) -> None:
    flags = [option.flag for option in option_fields(COMMANDS[name][1]) if option.type is not bool]
    flag = next((flag for flag in flags if flag.startswith("--")), "--config")
    positional = ["a", "b"] if name == "generate" else ["a"] if name in ("compare", "check_published") else []
    with pytest.raises(ConfigError) as caught:
        main_of(name)([f"{flag}x", "1", *positional])
    message = str(caught.value)
    assert "\n" not in message
    assert f"unknown option {flag}x; did you mean {flag}?" in message


def test_flags_that_are_the_same_have_the_same_type_in_every_command() -> None:
    kinds: dict[str, set[str]] = {}
    for _, model, _, _ in COMMANDS.values():
        for option in option_fields(model):
            kinds.setdefault(option.flag, set()).add(str(get_args(option.type) or option.type))
    different = {flag: found for flag, found in kinds.items() if len(found) > 1}
    # A job's workers are a pool that may grow, or a fixed number; sizes and precisions have different choices.
    assert different.keys() <= {"--precision", "--size", "--rollout-workers", "--codec-workers"}, different


@pytest.mark.parametrize("off", ["none", "null"])
def test_none_and_null_switch_options_off(off: str) -> None:
    config = crpo.load_config(["--judge", off, "--detector", off, "--prompts", off, "--rollout-resources", off])
    assert (config.rewards.judge, config.rewards.detector, config.prompts) == (None, None, None)
    assert config.rollouts.resources == {}


def test_help_imports_neither_torch_nor_ray() -> None:
    modules = sorted({module for module, *_ in COMMANDS.values()})
    program = f"import sys, {', '.join(modules)}; print(*{{'torch', 'ray', 'transformers'}} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=JOBS.parent, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


def test_a_bad_value_ends_the_process_with_status_2_and_one_line() -> None:
    command = [sys.executable, "jobs/rollout.py", "--output", "a", "--num-samples", "0"]
    result = subprocess.run(command, cwd=JOBS.parent, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: --num-samples is 0: it must be a whole number from 1 to 1000\n"

"""Whole runs whose processes are killed, compared with undisturbed ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.benchmarks.chaos_results import differences
from jobs.chaos import main
from tangoflux.errors import ConfigError
from tests.integration.test_crpo import REPOSITORY

TINY = (
    *("--reward", "tests.integration.rewards:Loudness", "--judge", "none", "--detector", "none"),
    *("--duration-s", "0.5", "--num-steps", "2"),
)


def chaos(*arguments: object) -> str:
    """The script's output; a separate process, because it kills nodes, which must not affect this one's Ray."""
    command = [sys.executable, "jobs/chaos.py", *map(str, arguments), *TINY]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.ray
def test_a_run_whose_processes_are_killed_has_the_same_data_and_policy(tmp_path: Path, tiny_policy_dir: Path) -> None:
    output = tmp_path / "chaos"
    kinds = ("rollout", "writer", "learner", "driver")
    said = chaos(
        *("--output", output, "--kills", 4, "--kinds", *kinds, "--iterations", 1, "--init-policy", tiny_policy_dir)
    )
    assert "policies and held-out scores equal the undisturbed run's" in said
    assert re.search(r"^all +4$", said, re.MULTILINE)
    calm, disturbed = output / "undisturbed", output / "disturbed"
    next((disturbed / "heldout").iterdir()).write_text("")
    (disturbed / "rollouts" / "i0001" / ".failed_chunks.json").write_text("[]")
    first, second = differences(calm, disturbed)
    assert first.endswith(".failed_chunks.json") and re.fullmatch(r"heldout/.* differs", second)


@pytest.mark.slow
@pytest.mark.ray
def test_three_iterations_survive_twenty_kills_of_every_kind(tmp_path: Path, tiny_policy_dir: Path) -> None:
    long_enough = ("--prompts-per-iteration", 144, "--epochs", 6)
    said = chaos("--output", tmp_path / "chaos", "--init-policy", tiny_policy_dir, *long_enough)
    assert "policies and held-out scores equal the undisturbed run's" in said
    assert re.search(r"^all +20$", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kinds", "driver", "cat"], "--kinds is driver cat: it must be some of rollout, reward"),
        (["--kills", "0"], "--kills is 0: it must be a whole number of at least 1"),
        (["--output", "."], "--output . is not empty"),
        (["--bta", "1"], "unknown option --bta; did you mean --beta?"),
    ],
)
def test_bad_options_are_refused_before_anything_starts(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        main(arguments)

"""What the pools' bookkeeping costs, and how the benchmark tells it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from jobs.bench import main
from tangoflux.errors import ConfigError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_orchestration_is_measured_over_a_small_and_a_large_bank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "costs.json"
    options = ["--rollout-workers", "2", "--num-prompts", "30", "--bank-lines", "3000", "--output", str(output)]
    assert main(["orchestration", *options]) == 0
    runs = json.loads(output.read_text())["runs"]
    assert [(run["bank_lines"], run["samples"], run["chunks"]) for run in runs] == [(1000, 150, 4), (3000, 150, 4)]
    assert all(run["driver_ms_per_sample"] > 0 for run in runs)
    assert "150 samples in 4 chunks by 2 workers, bank of 3,000 lines" in capsys.readouterr().out


def test_latents_of_the_papers_size_do_not_pass_through_the_driver(tmp_path: Path) -> None:
    output = tmp_path / "costs.json"
    options = ["--rollout-workers", "2", "--num-prompts", "16", "--bank-lines", "1000", "--output", str(output)]
    assert main(["orchestration", *options, "--latent-frames", "645", "--latent-channels", "64"]) == 0
    [run] = json.loads(output.read_text())["runs"]
    # A sample is a row of rollouts, and two of five are in a pair too.
    assert run["stored_bytes_per_sample"] > 1.4 * 4 * 645 * 64
    assert run["driver_bytes_per_sample"] < 2_000


@pytest.mark.slow
def test_overlap_compares_the_stage_with_its_sampling(
    tmp_path: Path, tiny_policy_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loudness = "tests.integration.rewards:Loudness"
    options = ["--reward", loudness, "--judge", "none", "--detector", "none", "--init-policy", str(tiny_policy_dir)]
    work = [
        "--prompts-per-iteration",
        "16",
        "--num-steps",
        "1",
        "--duration-s",
        "0.5",
        "--rollout-chunk-prompts",
        "4",
        "--warmup-steps",
        "1",
    ]
    assert main(["overlap", "--rounds", "2", *options, *work]) == 0
    assert re.search(r"takes \d+\.\d\d times what its sampling alone takes .* in 2 rounds", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["orchestration", "--rollout-workers", "0"],
            "--rollout-workers is 0: it must be a whole number",
        ),
        (["orchestration", "--num-prompts", "9", "--bank-lines", "8"], "--bank-lines 8 is less than --num-prompts 9"),
        (["overlap", "--rounds", "0"], "--rounds is 0: it must be a whole number of at least 1"),
        (["overlap", "--bta", "1"], "unknown option --bta; did you mean --beta?"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        main(arguments)

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from actors.storage.metrics import MetricsLog
from jobs.reporting.comparison import comparison, runs_needed
from jobs.reporting.heldout import HeldoutScores
from tangoflux.data.prompts import Prompt
from tangoflux.errors import DataError


def run_of(directory: Path, gains: list[float], ids: str = "abcd") -> Path:
    """A run of two iterations after which prompt k scores ``gains[k]`` more than its base of k."""
    prompts = [Prompt(name, f"prompt {name}", 2.0) for name in ids]
    heldout = HeldoutScores(directory / "heldout", prompts)
    for iteration, share in enumerate((0.0, 5.0, 1.0)):
        scores = {prompt.id: {"reward": k + share * gains[k] if share else k} for k, prompt in enumerate(prompts)}
        heldout.write(iteration, scores)
        MetricsLog(directory / "metrics.jsonl").write("iteration", iteration=iteration)
    return directory


def test_each_run_has_a_row_and_all_together_have_errors_over_runs(tmp_path: Path) -> None:
    first = run_of(tmp_path / "seed-0", [0.1, 0.2, 0.3, 0.4])
    second = run_of(tmp_path / "seed-1", [0.5, 0.4, 0.3, 0.4])
    text = comparison([first, second])
    assert "| reward | 1.500 | +0.325 ± 0.075 | – | 0.025 | +0.250 | +0.400 | – |" in text
    assert "| seed-0 | +0.250 ± 0.065 |" in text and "| seed-1 | +0.400 ± 0.041 |" in text
    assert "4 held-out prompts." in text and "over the 2 runs" in text


def test_three_runs_say_how_many_errors_a_change_is_and_how_many_runs_it_needs(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / f"seed-{n}", [gain] * 4) for n, gain in enumerate((0.1, 0.2, 0.3))]
    assert "| reward | 1.500 | +0.200 ± 0.058 | +3.5 | 0.000 | +0.100 | +0.300 | 2 |" in comparison(runs)


def test_the_bases_mean_is_its_own_where_an_aspect_applies_to_other_prompts_than_before(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, [0.1, 0.1, 0.1, math.nan]) for name in ("a", "b")]
    assert "| reward | 1.500 | +0.100 ± 0.000 |" in comparison(runs)


def test_a_figure_without_any_change_is_shown_as_missing(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, [math.nan] * 4) for name in ("a", "b")]
    assert "| reward | 1.500 | – | – | – | – | – | – |" in comparison(runs)


def test_one_run_has_its_row_only(tmp_path: Path) -> None:
    text = comparison([run_of(tmp_path / "a", [0.1, 0.2, 0.3, 0.4])])
    assert "| run | reward |" in text and "runs to be sure" not in text


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ([0.1, 0.1], "–"),
        ([0.1, 0.1, 0.1], "2"),
        ([0.0, 0.1, 0.05], "4"),
        ([0.1, -0.1, 0.0], "–"),
        ([0.1, -0.0999, 0.0], "more than 999"),
    ],
)
def test_the_runs_that_a_change_needs_follow_from_its_size_and_spread(changes: list[float], needed: str) -> None:
    assert runs_needed(np.array(changes)) == needed


def test_runs_of_one_name_are_told_apart_and_one_run_is_not_taken_for_two(tmp_path: Path) -> None:
    first, second = run_of(tmp_path / "a" / "run", [0.1] * 4), run_of(tmp_path / "b" / "run", [0.3] * 4)
    text = comparison([first, second])
    assert f"| {first} | +0.100 " in text and f"| {second} | +0.300 " in text
    with pytest.raises(DataError, match="a run is given twice"):
        comparison([first, second, first])


def test_runs_with_other_prompts_and_directories_without_a_run_are_refused(tmp_path: Path) -> None:
    first, other = run_of(tmp_path / "a", [0.0] * 4), run_of(tmp_path / "b", [0.0] * 4, "abce")
    with pytest.raises(DataError, match=re.escape(f"{other} has other held-out prompts")):
        comparison([first, other])
    with pytest.raises(DataError, match="holds no run"):
        comparison([tmp_path])

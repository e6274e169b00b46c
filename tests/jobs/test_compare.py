from __future__ import annotations

import re
from pathlib import Path

import pytest

from actors.storage.metrics import MetricsLog
from jobs.reporting.comparison import comparison
from jobs.reporting.heldout import HeldoutScores
from tangoflux.data.prompts import Prompt
from tangoflux.errors import DataError


def run_of(directory: Path, gains: list[float], ids: str = "abcd") -> Path:
    """A run of two iterations after which prompt k scores ``gains[k]`` more than its base of k."""
    prompts = [Prompt(name, f"prompt {name}", 2.0) for name in ids]
    heldout = HeldoutScores(directory / "heldout", prompts)
    for iteration, share in enumerate((0.0, 5.0, 1.0)):
        scores = {prompt.id: {"reward": k + share * gains[k]} for k, prompt in enumerate(prompts)}
        heldout.write(iteration, scores)
        MetricsLog(directory / "metrics.jsonl").write("iteration", iteration=iteration)
    return directory


def test_the_table_has_each_run_and_all_together_with_errors_over_prompts(tmp_path: Path) -> None:
    first = run_of(tmp_path / "seed-0", [0.1, 0.2, 0.3, 0.4])
    second = run_of(tmp_path / "seed-1", [0.4, 0.3, 0.2, 0.1])
    text = comparison([first, second])
    assert "| seed-0 | 1.500 ± 0.645 | +0.250 ± 0.065 |" in text
    assert "| all | 1.500 ± 0.645 | +0.250 ± 0.000 |" in text
    assert text.endswith("4 held-out prompts.")


def test_one_run_has_no_row_for_all(tmp_path: Path) -> None:
    assert "| all |" not in comparison([run_of(tmp_path / "a", [0.1, 0.2, 0.3, 0.4])])


def test_runs_with_other_prompts_and_directories_without_a_run_are_refused(tmp_path: Path) -> None:
    first, other = run_of(tmp_path / "a", [0.0] * 4), run_of(tmp_path / "b", [0.0] * 4, "abce")
    with pytest.raises(DataError, match=re.escape(f"{other} has other held-out prompts")):
        comparison([first, other])
    with pytest.raises(DataError, match="holds no run"):
        comparison([tmp_path])

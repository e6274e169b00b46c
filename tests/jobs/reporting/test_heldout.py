from pathlib import Path

import numpy as np
import pytest

from jobs.reporting.heldout import HeldoutScores, heldout_figures, mean_and_error
from tangoflux.data.prompts import Prompt


def test_the_change_is_paired_prompt_by_prompt() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=200)
    after = base + 0.1 + rng.normal(scale=0.01, size=200)
    figure = heldout_figures({"reward": after}, {"reward": base})["reward"]
    assert figure["delta"] == pytest.approx(0.1, abs=0.003)
    assert figure["delta_se"] == pytest.approx(0.01 / 200**0.5, rel=0.2)
    assert figure["se"] == pytest.approx(1 / 200**0.5, rel=0.2)


def test_prompts_without_a_score_count_on_neither_side() -> None:
    base, after = np.array([1.0, np.nan, 3.0]), np.array([2.0, 5.0, np.nan])
    figure = heldout_figures({"exact": after}, {"exact": base})["exact"]
    assert figure["mean"] == pytest.approx(3.5)
    assert figure["se"] == pytest.approx(1.5)
    assert (figure["delta"], figure["delta_se"]) == (1.0, None)


def test_a_prompt_that_nobody_scored_is_in_the_table_without_a_score(tmp_path: Path) -> None:
    scores = HeldoutScores(tmp_path, [Prompt(id=name, text=name, duration_s=1.0) for name in "ab"])
    scores.write(0, {"b": {"reward": 0.5}})
    np.testing.assert_array_equal(scores.read(0)["reward"], [np.nan, 0.5])


def test_no_scores_give_no_figures() -> None:
    assert mean_and_error(np.array([np.nan])) == (None, None)

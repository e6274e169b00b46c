from pathlib import Path

import numpy as np
import pytest

from jobs.reporting.heldout import HeldoutScores, figures_by_shape, heldout_figures
from tangoflux.data.prompts import Prompt
from tangoflux.soundworld import Event, SceneContent, caption

TEXTS = [f"prompt {index}" for index in range(200)]


def sentence(*events: Event, overlap: bool = False) -> str:
    return caption(SceneContent(events, overlap), np.random.default_rng(0))


def test_the_change_is_paired_prompt_by_prompt() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=200)
    after = base + 0.1 + rng.normal(scale=0.01, size=200)
    figure = heldout_figures({"reward": after}, {"reward": base}, {"reward": after - 0.02}, TEXTS)["reward"]
    assert figure["delta"] == pytest.approx(0.1, abs=0.003)
    assert figure["delta_se"] == pytest.approx(0.01 / 200**0.5, rel=0.2)
    assert figure["se"] == pytest.approx(1 / 200**0.5, rel=0.2)
    assert figure["step"] == pytest.approx(0.02)


def test_prompts_without_a_score_count_on_neither_side() -> None:
    base, after = np.array([1.0, np.nan, 3.0]), np.array([2.0, 5.0, np.nan])
    figure = heldout_figures({"exact": after}, {"exact": base}, {"exact": base}, TEXTS[:3])["exact"]
    assert figure["mean"] == pytest.approx(3.5)
    assert figure["se"] == pytest.approx(1.5)
    assert (figure["delta"], figure["delta_se"]) == (1.0, None)


def test_a_prompt_that_nobody_scored_is_in_the_table_without_a_score(tmp_path: Path) -> None:
    scores = HeldoutScores(tmp_path, [Prompt(id=name, text=name, duration_s=1.0) for name in "ab"])
    scores.write(0, {"b": {"reward": 0.5}})
    np.testing.assert_array_equal(scores.read(0)["reward"], [np.nan, 0.5])


def test_figures_by_shape_are_of_the_prompts_of_that_shape() -> None:
    bark, bell = Event("bark"), Event("bell")
    texts = [sentence(bark), sentence(Event("bark", 2)), sentence(bark, bell, overlap=True), "rain on a roof"]
    scores, base = np.array([1.0, 0.0, 1.0, 1.0]), np.zeros(4)
    by_shape = figures_by_shape({"recall": scores}, {"recall": base}, texts)
    means = {shape: figures["recall"]["mean"] for shape, figures in by_shape.items()}
    assert means == {"single": 0.5, "overlap": 1.0, "repeated": 0.0}
    assert figures_by_shape({"recall": scores[3:]}, {"recall": base[3:]}, texts[3:]) == {}

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tangoflux.rewards.grounder import GrounderReward
from tangoflux.soundworld import KINDS, Event, SceneContent
from tangoflux.soundworld.grounder import MOST_UNITS, Grounder, GrounderConfig, Grounding, check_scores

RATE = 16_000
WANTED = SceneContent((Event("bark", 2), Event("bell")))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("grounder")
    Grounder(GrounderConfig(width=16, heads=2, encoder_layers=1, decoder_layers=1)).save(path)
    return path


def told(**kinds: tuple[int, float, float]) -> Grounding:
    """A sure grounding: count, start and end of each kind."""
    present, counts = torch.full((1, len(KINDS)), -12.0), torch.full((1, len(KINDS), MOST_UNITS), -12.0)
    spans = torch.zeros(1, len(KINDS), 2)
    for kind, (count, start, end) in kinds.items():
        column = KINDS.index(kind)
        present[0, column], counts[0, column, count - 1] = 12.0, 12.0
        spans[0, column] = torch.tensor([start, end])
    return Grounding(present, counts, spans)


def mean_score(**kinds: tuple[int, float, float]) -> float:
    return float(np.mean(check_scores(WANTED, told(**kinds), 0)))


def test_the_more_of_what_is_asked_is_heard_the_higher_the_score() -> None:
    right = mean_score(bark=(2, 0.0, 0.4), bell=(1, 0.5, 0.9))
    wrong = {
        "count": mean_score(bark=(3, 0.0, 0.4), bell=(1, 0.5, 0.9)),
        "order": mean_score(bark=(2, 0.5, 0.9), bell=(1, 0.0, 0.4)),
        "together": mean_score(bark=(2, 0.0, 0.5), bell=(1, 0.0, 0.5)),
        "background": mean_score(bark=(2, 0.0, 0.4), bell=(1, 0.5, 0.9), hiss=(1, 0.0, 1.0)),
    }
    assert right > 0.99
    assert all(0.5 < score < 0.95 for score in wrong.values()), wrong
    assert mean_score(bark=(2, 0.0, 0.4)) < min(wrong.values()), "a missing sound costs all that is asked of it"
    assert mean_score() < 0.2


def test_a_missing_sound_weighs_more_than_a_background(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hissing = told(bark=(2, 0.0, 0.4), bell=(1, 0.5, 0.9), hiss=(1, 0.0, 1.0))
    missing = told(bark=(2, 0.0, 0.4))
    reward = GrounderReward(directory, "g")
    noise = np.random.default_rng(0).normal(0, 0.1, (2, RATE)).astype(np.float32)
    scores: list[float] = []
    for heard in (hissing, missing):
        monkeypatch.setattr(Grounder, "ground", lambda *_, heard=heard: heard)
        scores += reward(["a dog barks twice and then a bell rings"], [noise], RATE).tolist()
    assert scores[0] - scores[1] > 0.3
    # 6 of 7 checks and both sounds; 3 of 7 and one of two.
    np.testing.assert_allclose(scores, [(6 / 7 + 1) / 2, (3 / 7 + 1 / 2) / 2], atol=0.03)


def test_overlapping_events_are_scored_by_what_they_share() -> None:
    wanted = SceneContent((Event("bark"), Event("bell")), overlap=True)
    together, apart = told(bark=(1, 0.1, 0.5), bell=(1, 0.1, 0.5)), told(bark=(1, 0.0, 0.4), bell=(1, 0.5, 0.9))
    assert np.mean(check_scores(wanted, together, 0)) > 0.99 > 0.9 > np.mean(check_scores(wanted, apart, 0))


def test_what_cannot_be_judged_has_no_score(directory: Path) -> None:
    reward = GrounderReward(directory, "g")
    noise = np.random.default_rng(0).normal(0, 0.1, (2, RATE)).astype(np.float32)
    broken = np.full_like(noise, np.nan)
    prompts = ["a dog barks", "colourless green ideas", "a dog barks", "a dog barks"]
    scores = reward(prompts, [noise, noise, broken, noise[:, :0]], RATE)
    assert np.isnan(scores).tolist() == [False, True, True, True] and 0 <= scores[0] <= 1
    grades = reward.grade(prompts, [noise, noise, broken, noise[:, :0]], RATE)
    assert [np.isnan(row["recall"]) for row in grades] == [False, True, True, True]
    assert reward([], [], RATE).shape == (0,) and reward.grade([], [], RATE) == []


def test_a_score_does_not_depend_on_what_else_is_scored(directory: Path) -> None:
    reward, rng = GrounderReward(directory, "g"), np.random.default_rng(1)
    waveforms = [rng.normal(0, 0.1, (1, length)).astype(np.float32) for length in (8_000, 30_000, 70_000)]
    together = reward(["a dog barks"] * 3, waveforms, RATE)
    alone = [reward(["a dog barks"], [waveform], RATE)[0] for waveform in waveforms]
    np.testing.assert_allclose(together, alone, atol=1e-5)

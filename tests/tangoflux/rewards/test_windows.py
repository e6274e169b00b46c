"""Audio that is longer than a model hears at once, with the option to hear all of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tangoflux.errors import ConfigError
from tangoflux.rewards import ClapReward, check_reward, load_reward

RATE, WINDOW = 16_000, 64_000


@pytest.fixture(scope="module")
def audio() -> NDArray[np.float32]:
    """Two and a half windows, each louder than the one before."""
    noise = np.random.default_rng(0).normal(0, 0.1, (1, WINDOW * 5 // 2))
    return (noise * np.linspace(0.01, 3, noise.shape[1])).astype(np.float32)


def test_the_windows_embeddings_are_averaged(clap_dir: Path, audio: NDArray[np.float32]) -> None:
    first, all_windows = ClapReward(clap_dir, "first"), ClapReward(clap_dir, "all", windows=True)
    with torch.no_grad():
        parts = first.embed_audio([audio[:, start : start + WINDOW] for start in (0, WINDOW, 2 * WINDOW)], RATE)
        heard = all_windows.embed_audio([audio, audio[:, :WINDOW]], RATE)
    mean = parts.mean(dim=0)
    torch.testing.assert_close(heard[0], mean / mean.norm(), atol=1e-6, rtol=0)
    torch.testing.assert_close(heard[1], parts[0], atol=1e-6, rtol=0)
    assert (heard[0] - parts[0]).abs().max() > 0.01


def test_a_rest_below_a_tenth_of_a_window_is_left_out(clap_dir: Path, audio: NDArray[np.float32]) -> None:
    reward = ClapReward(clap_dir, "all", windows=True)
    scores = reward(["a dog barks"] * 3, [audio[:, : 2 * WINDOW + rest] for rest in (0, 6_399, 6_400)], RATE)
    assert scores[0] == pytest.approx(scores[1], abs=1e-6) and scores[0] != pytest.approx(scores[2], abs=1e-4)
    assert np.isfinite(reward(["a dog barks"], [audio[:, :100]], RATE)).all()


def test_windows_are_asked_for_in_the_name(clap_dir: Path) -> None:
    for name, label in ((str(clap_dir), "tiny-clap"), ("miniature-clap", "miniature-clap")):
        check_reward(f"windows:{name}")
        assert load_reward(f"windows:{name}").name == f"windows:{label}"


@pytest.mark.parametrize(
    ("inner", "message"),
    [(inner, "windows: needs one") for inner in ("miniature-detector", "", "tests:Reward", "windows:miniature-clap")]
    + [("laion:gone.pt", "laion: must be followed by an existing .pt file")],
)
def test_only_clap_models_score_windows(inner: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_reward(f"windows:{inner}")

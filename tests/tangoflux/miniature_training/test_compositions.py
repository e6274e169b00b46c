"""What the installed CLAPs prefer on held-out scenes."""

from __future__ import annotations

import numpy as np
import pytest

from tangoflux.miniature_training.compositions import (
    BACKGROUND,
    WRONG,
    HeldoutScenes,
    heldout_scenes,
    load_clap,
    preferences,
)
from tangoflux.rewards.registry import EMBEDDED


@pytest.fixture(scope="module")
def heldout() -> HeldoutScenes:
    return heldout_scenes("test", 40, seed=3)


def test_a_background_fills_the_gaps_of_the_same_scene(heldout: HeldoutScenes) -> None:
    assert heldout.clean.shape == heldout.noisy.shape == (40, 251, 64)
    louder = (heldout.noisy - heldout.clean)[:, 2:50].mean((1, 2))
    assert (louder > 0).all()


@pytest.mark.parametrize(
    ("name", "deaf_to"), [("clap", {WRONG["swap"]}), ("judge", {WRONG["swap"]}), ("compositional", set())]
)
def test_a_clap_prefers_what_is_right_and_only_the_compositional_one_in_order(
    name: str, deaf_to: set[str], heldout: HeldoutScenes
) -> None:
    found = preferences(*load_clap(EMBEDDED / name), heldout, augmented=False)
    shares = {wrong: np.mean([one.won for one in rows]) for wrong, rows in found.items()}
    assert set(shares) == {*WRONG.values(), BACKGROUND} and len(found[BACKGROUND]) == 40
    assert {wrong for wrong, share in shares.items() if share < 0.8} == deaf_to

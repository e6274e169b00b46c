"""The published checkpoints by name, from a hub on this machine that has files of the same names and format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from tangoflux.errors import CheckpointError
from tangoflux.rewards import check_reward, load_reward
from tests.hub import LocalHub
from tests.tangoflux.rewards.laion_files import Sizes, laion_state, write_laion_checkpoint, write_roberta_tokenizer

ADDRESS_OF_A_FILE = "{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> LocalHub:
    root = tmp_path_factory.mktemp("hub")
    vocabulary = write_roberta_tokenizer(root / "FacebookAI" / "roberta-base")
    (root / "FacebookAI" / "roberta-base" / "model.safetensors").write_bytes(b"weights that nobody needs")
    checkpoints = root / "lukewys" / "laion_clap"
    checkpoints.mkdir(parents=True)
    for name, fusion in (("630k-audioset-best.pt", False), ("630k-audioset-fusion-best.pt", True)):
        sizes = Sizes(audio=16, text=64, joint=32, vocabulary=vocabulary, fusion=fusion)
        write_laion_checkpoint(checkpoints / name, laion_state(sizes))
    return LocalHub(root)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been downloaded yet, and what the environment says of the hub does not count."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def score(name: str) -> tuple[str, bool]:
    """The reward's name, and whether it gives a score."""
    check_reward(name)
    reward = load_reward(name)
    return reward.name, bool(np.isfinite(reward(["a dog barks"], [np.ones((2, 44_100), np.float32)], 44_100)).all())


def test_the_papers_reward_is_fetched_once_with_its_tokenizer_and_nothing_more(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = "0.5*630k-audioset-best+0.5*630k-audioset-fusion-best"
    with hub.running() as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{ADDRESS_OF_A_FILE}")
        assert score(both) == (both, True)
    assert hub.downloads.count("lukewys/laion_clap/630k-audioset-best.pt") == 1
    assert "FacebookAI/roberta-base/vocab.json" in hub.downloads
    assert "FacebookAI/roberta-base/model.safetensors" not in hub.downloads
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert score("windows:630k-audioset-best") == ("windows:630k-audioset-best", True)


def test_without_a_hub_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = (
        "630k-audioset-best.pt cannot be downloaded from lukewys/laion_clap.*give the file's path instead of its name"
    )
    with pytest.raises(CheckpointError, match=message) as caught:
        check_reward("630k-audioset-best")
    assert "\n" not in str(caught.value)

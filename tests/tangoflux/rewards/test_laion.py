"""laion_clap itself, and ClapReward beside it on the same weights."""

from __future__ import annotations

import importlib
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from numpy.typing import NDArray
from torch import Tensor

from tangoflux.errors import CheckpointError, ConfigError
from tangoflux.rewards import ClapReward, LaionReward, check_reward, load_reward
from tangoflux.soundworld import random_scene, render
from tests.tangoflux.rewards.laion_files import (
    CONSTANTS,
    DEPTHS,
    Sizes,
    laion_state,
    write_laion_checkpoint,
    write_roberta_model,
    write_roberta_tokenizer,
)

needs_laion = pytest.mark.skipif(find_spec("laion_clap") is None, reason="the extra laion is not installed")

RATE = 48_000
PROMPTS = ["a dog barks then a bell rings", "steam hisses " * 60, "犬が吠える 🐕 and a siren wails", ""]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the ``roberta-base`` that laion_clap asks for."""
    home = tmp_path_factory.mktemp("home")
    write_roberta_model(home / "roberta-base", write_roberta_tokenizer(home / "roberta-base"))
    return home


@pytest.fixture
def shallow(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """laion_clap in ``home``, its HTSAT of fewer blocks."""
    monkeypatch.chdir(home)
    importlib.import_module("laion_clap")  # takes seconds, for which no other test need wait
    from clap_module import htsat, model  # pyright: ignore[reportMissingImports]

    def create(config: Any, enable_fusion: bool, fusion_type: str) -> torch.nn.Module:
        return htsat.HTSAT_Swin_Transformer(
            depths=DEPTHS, config=config, enable_fusion=enable_fusion, fusion_type=fusion_type
        )

    monkeypatch.setattr(model, "create_htsat_model", create)


@pytest.fixture
def checkpoint(home: Path, shallow: None, request: pytest.FixtureRequest) -> Path:
    """A checkpoint of laion_clap, with fusion if the parameter says so, and its tokenizer beside it."""
    fusion = bool(getattr(request, "param", False))
    own: dict[str, Tensor] = laion_module(enable_fusion=fusion).model.state_dict()
    vocabulary = own["text_branch.embeddings.word_embeddings.weight"].shape[0]
    state = laion_state(Sizes(vocabulary=vocabulary, fusion=fusion))
    position_ids = state.pop("text_branch.embeddings.position_ids")
    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in state.items()}
    state |= {key: value for key, value in own.items() if key.endswith(CONSTANTS)}
    shutil.copytree(home / "roberta-base", home / "tokenizer", dirs_exist_ok=True)
    state["text_branch.embeddings.position_ids"] = position_ids
    return write_laion_checkpoint(home / "clap.pt", state)


def laion_module(**options: Any) -> Any:
    return importlib.import_module("laion_clap").CLAP_Module(device="cpu", **options)


def scene() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return render(random_scene(rng, "train"), rng)[None]


def noise(seconds: float) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, 0.5, (2, round(seconds * RATE))).astype(np.float32)


def difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


@needs_laion
@pytest.mark.parametrize("checkpoint", [False, True], indirect=True, ids=["plain", "fusion"])
def test_both_backends_give_the_same_embeddings(checkpoint: Path) -> None:
    clap, laion = ClapReward(checkpoint, "clap"), LaionReward(checkpoint, "laion")
    assert clap.checkpoint == laion.checkpoint
    with torch.no_grad():
        text = clap.embed_text(PROMPTS)
        assert difference(text, laion.embed_text(PROMPTS)) < 1e-5
        assert difference(text[0], text[1]) > 0.01
        audio = [clap.embed_audio([noise(3.1)], RATE), clap.embed_audio([scene()], 16_000)]
        assert difference(audio[0], laion.embed_audio([noise(3.1)], RATE)) < 1e-5
        assert difference(audio[1], laion.embed_audio([scene()], 16_000)) < 1e-5
    assert difference(audio[0], audio[1]) > 0.01


@needs_laion
@pytest.mark.parametrize("checkpoint", [True], indirect=True, ids=["fusion"])
def test_nothing_is_cropped_at_random(checkpoint: Path) -> None:
    check_reward(f"laion:{checkpoint}")
    reward = load_reward(f"laion:{checkpoint}")
    assert isinstance(reward, LaionReward) and reward.name == "laion:clap.pt"
    audio = noise(13)
    scores = {float(reward(PROMPTS[:1], [each], RATE)[0]) for each in (audio, audio, audio[:, : 10 * RATE])}
    assert len(scores) == 1 and np.isfinite(list(scores)).all()


@needs_laion
def test_an_empty_tokenizer_is_noticed(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(checkpoint.parent / "roberta-base", tmp_path / "roberta-base")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "roberta-base" / name).unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"the tokenizer from roberta-base has 5 tokens, not \d+: run: hf"):
        LaionReward(checkpoint, "laion")


@needs_laion
def test_without_roberta_it_fails_at_once_and_says_what_to_do(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def refuse(**options: Any) -> None:
        asked.append(constants.HF_HUB_OFFLINE)
        raise OSError("no roberta-base\nin several lines")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("laion_clap.CLAP_Module", refuse)
    with pytest.raises(CheckpointError, match="cannot build its text encoder from roberta-base: run: hf") as caught:
        LaionReward(checkpoint, "laion")
    assert asked == [True] and constants.HF_HUB_OFFLINE is False and "\n" not in str(caught.value)


def test_without_the_extra_it_is_said_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "laion_clap", None)
    (tmp_path / "clap.pt").write_bytes(b"")
    for refused in (check_reward, load_reward):
        with pytest.raises(ConfigError, match=r"not installed: pip install 'tangoflux\[laion\]'"):
            refused(f"laion:{tmp_path / 'clap.pt'}")


@needs_laion
def test_a_width_that_laion_clap_has_not_is_refused(tmp_path: Path) -> None:
    file = write_laion_checkpoint(tmp_path / "clap.pt", laion_state(Sizes(audio=32, text=64, joint=16)))
    with pytest.raises(CheckpointError, match="laion_clap has no HTSAT of width 32"):
        LaionReward(file, "laion")


@needs_laion
@pytest.mark.slow
@pytest.mark.parametrize(("amodel", "fusion"), [("HTSAT-tiny", False), ("HTSAT-tiny", True), ("HTSAT-base", False)])
def test_both_backends_agree_at_the_published_sizes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amodel: str, fusion: bool
) -> None:
    monkeypatch.chdir(home)
    torch.manual_seed(0)
    module = laion_module(enable_fusion=fusion, amodel=amodel)
    shutil.copytree(home / "roberta-base", tmp_path / "tokenizer")
    file = write_laion_checkpoint(tmp_path / "clap.pt", module.model.state_dict())
    clap, laion = ClapReward(file, "clap"), LaionReward(file, "laion")
    with torch.no_grad():
        assert difference(clap.embed_text(PROMPTS), laion.embed_text(PROMPTS)) < 1e-5
        for audio in (noise(10), noise(3.1)):
            assert difference(clap.embed_audio([audio], RATE), laion.embed_audio([audio], RATE)) < 1e-5

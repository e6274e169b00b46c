"""Reading laion_clap's checkpoints, without laion_clap."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import ClapModel

from tangoflux.errors import CheckpointError
from tangoflux.rewards import ClapReward, load_reward
from tangoflux.rewards.laion_checkpoint import read_laion_checkpoint
from tests.tangoflux.rewards.laion_files import Sizes, laion_state, write_laion_checkpoint, write_roberta_tokenizer

RATE = 48_000


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint, the same with fusion, and their tokenizer."""
    directory = tmp_path_factory.mktemp("laion")
    vocabulary = write_roberta_tokenizer(directory / "tokenizer")
    for fusion in (False, True):
        state = laion_state(Sizes(audio=32, text=64, joint=16, vocabulary=vocabulary, fusion=fusion))
        write_laion_checkpoint(directory / ("fusion.pt" if fusion else "plain.pt"), state)
    return directory


@pytest.fixture(scope="module")
def state(directory: Path) -> dict[str, Tensor]:
    return read_laion_checkpoint(directory / "plain.pt").state


def noise(seconds: float, scale: float = 0.1) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, scale, (1, round(seconds * RATE))).astype(np.float32)


class Harmful:
    """What must never come out of a file."""

    loaded = False

    def __init__(self) -> None:
        Harmful.loaded = True

    def __reduce__(self) -> tuple[type[Harmful], tuple[()]]:
        return Harmful, ()


@pytest.mark.parametrize("name", ["plain.pt", "fusion.pt"])
def test_a_checkpoint_with_numpy_scores_and_optimiser_state_is_a_reward(directory: Path, name: str) -> None:
    reward = load_reward(str(directory / name))
    assert reward.name == name and len(reward.checkpoint) == 16
    prompts = ["a dog barks", "steam hisses then a bell rings"]
    scores = reward(prompts, [noise(1), noise(2, 0.5)], RATE)
    assert np.isfinite(scores).all() and scores[0] != scores[1]
    np.testing.assert_array_equal(reward(prompts, [noise(1), noise(2, 0.5)], RATE), scores)


def test_every_weight_of_the_model_comes_from_the_file(state: dict[str, Tensor], directory: Path) -> None:
    checkpoint = read_laion_checkpoint(directory / "fusion.pt")
    expected = dict(ClapModel(checkpoint.config()).named_parameters())
    given = checkpoint.transformers_state()
    assert {key for key in given if "running" not in key and "num_batches" not in key} == set(expected)
    assert all(given[key].shape == value.shape for key, value in expected.items())


def test_the_configuration_is_read_from_the_shapes(directory: Path) -> None:
    config: Any = read_laion_checkpoint(directory / "fusion.pt").config()
    audio, text = config.audio_config, config.text_config
    assert (audio.patch_embeds_hidden_size, audio.hidden_size, audio.enable_fusion) == (32, 256, True)
    assert (list(audio.depths), list(audio.num_attention_heads)) == ([2, 1, 1, 1], [4, 8, 16, 32])
    assert (text.hidden_size, text.num_hidden_layers, text.intermediate_size, text.layer_norm_eps) == (64, 1, 32, 1e-5)
    assert config.projection_dim == 16


def test_of_long_audio_a_fusion_model_too_hears_the_first_ten_seconds(directory: Path) -> None:
    reward = ClapReward(directory / "fusion.pt", "fusion")
    scores = {
        float(reward(["a dog barks"], [audio], RATE)[0]) for audio in (noise(14), noise(14), noise(14)[:, : 10 * RATE])
    }
    assert len(scores) == 1


def test_audio_is_heard_as_sixteen_bit_integers(directory: Path) -> None:
    reward = ClapReward(directory / "plain.pt", "plain")
    audio = noise(1, 0.001)
    integers = (np.trunc(audio * 32767) / 32767).astype(np.float32)
    first, second, finer = reward.embed_audio([audio, integers, audio * 1.001], RATE)
    assert torch.allclose(first, second, atol=1e-6) and not torch.equal(first, finer)


def test_a_file_without_the_modules_prefix_or_the_training_around_it_is_read(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "bare.pt")
    assert read_laion_checkpoint(tmp_path / "bare.pt").state.keys() == state.keys()


def test_what_is_not_numbers_is_never_unpickled(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = write_laion_checkpoint(tmp_path / "harmful.pt", state, scaler=Harmful())
    Harmful.loaded, allowed = False, set(torch.serialization.get_safe_globals())
    with pytest.raises(CheckpointError, match=r"harmful.pt cannot be read without running code from it: .*Harmful"):
        read_laion_checkpoint(file)
    assert not Harmful.loaded and set(torch.serialization.get_safe_globals()) == allowed


def test_a_file_that_is_none_is_refused_in_one_line(directory: Path, state: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "half.pt").write_bytes((directory / "plain.pt").read_bytes()[:100_000])
    torch.save([1, 2], tmp_path / "list.pt")
    bert = {key: value for key, value in state.items() if "word_embeddings" not in key}
    torch.save(bert, tmp_path / "other.pt")
    messages = {
        "missing": "is missing",
        "text": "text.pt cannot be read",
        "empty": "truncated",
        "half": "half.pt",
        "list": "has no dictionary of tensors",
        "other": "no 'text_branch.embeddings.word_embeddings.weight'",
    }
    for name, message in messages.items():
        with pytest.raises(CheckpointError, match=message) as caught:
            read_laion_checkpoint(tmp_path / f"{name}.pt")
        assert "\n" not in str(caught.value)


def test_weights_that_are_missing_are_named(state: dict[str, Tensor], directory: Path, tmp_path: Path) -> None:
    fewer = {key: value for key, value in state.items() if key != "audio_branch.norm.bias"}
    file = write_laion_checkpoint(tmp_path / "fewer.pt", fewer)
    with pytest.raises(CheckpointError, match=r"fewer.pt does not fit .* missing audio_model.audio_encoder.norm.bias"):
        ClapReward(file, "fewer")


@pytest.mark.parametrize("place", [".", "tokenizer"])
def test_the_tokenizer_is_beside_the_file_or_in_its_folder(
    state: dict[str, Tensor], tmp_path: Path, place: str
) -> None:
    file = write_laion_checkpoint(tmp_path / "clap.pt", state)
    write_roberta_tokenizer(tmp_path / place)
    assert np.isfinite(ClapReward(file, "clap")(["a dog barks"], [noise(1)], RATE)).all()


def test_without_a_tokenizer_it_is_said_where_to_put_one(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_laion_checkpoint(tmp_path / "clap.pt", state)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tangoflux.rewards.published.TOKENIZER", "nobody/no-such-tokenizer")
    place = re.escape(str(tmp_path / "tokenizer"))
    fix = f"cannot be downloaded from the hub.*; put vocab.json and merges.txt of .* into {place}"
    with pytest.raises(CheckpointError, match=fix) as caught:
        ClapReward(file, "clap")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{}", "not json"])
def test_an_empty_or_broken_tokenizer_is_noticed(state: dict[str, Tensor], tmp_path: Path, content: str) -> None:
    file = write_laion_checkpoint(tmp_path / "clap.pt", state)
    write_roberta_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "vocab.json").write_text(content)
    (tmp_path / "tokenizer" / "merges.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"has \d+ tokens, not \d+|no tokenizer can be read from") as caught:
        ClapReward(file, "clap")
    assert "\n" not in str(caught.value)

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio.functional as AF
from numpy.typing import NDArray
from transformers import AutoTokenizer, ClapConfig, ClapFeatureExtractor, ClapModel

from tangoflux.errors import CheckpointError
from tangoflux.miniature_training.clap import audio_embeddings
from tangoflux.model.log_mel import LogMel, LogMelConfig
from tangoflux.rewards import ClapReward
from tangoflux.soundworld import random_scene, render

RATE = 16_000
PROMPTS = ["a dog barks then a bell rings", "steam hisses", "犬が吠える 🐕 and a siren wails"]


@pytest.fixture(scope="module")
def reward(clap_dir: Path) -> ClapReward:
    return ClapReward(clap_dir, "tiny")


@pytest.fixture(scope="module")
def waveforms() -> list[NDArray[np.float32]]:
    """Three scenes, mono, from 1 to 4 s."""
    rng = np.random.default_rng(0)
    return [render(random_scene(rng, "train"), rng)[None] for _ in range(3)]


def test_scores_are_those_of_transformers_own_pipeline(
    reward: ClapReward, clap_dir: Path, waveforms: list[NDArray[np.float32]]
) -> None:
    extractor = ClapFeatureExtractor.from_pretrained(clap_dir)
    model: Any = ClapModel.from_pretrained(clap_dir).eval()
    texts = AutoTokenizer.from_pretrained(clap_dir)(PROMPTS, padding=True, return_tensors="pt")
    audio = extractor([waveform[0] for waveform in waveforms], sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        output = model(**texts, input_features=audio["input_features"])
    expected = (output.audio_embeds * output.text_embeds).sum(1).numpy()
    scores = reward(PROMPTS, waveforms, RATE)
    np.testing.assert_allclose(scores, expected, atol=2e-4)
    assert scores.dtype == np.float64 and np.ptp(scores) > 0.05 and np.abs(scores).max() <= 1


def test_a_model_with_fusion_hears_short_audio_as_short(
    clap_dir: Path, tmp_path: Path, waveforms: list[NDArray[np.float32]]
) -> None:
    copy = copied(clap_dir, tmp_path)
    config: Any = ClapConfig.from_pretrained(copy)
    config.audio_config.enable_fusion, config.audio_config.fusion_type = True, "aff_2d"
    model: Any = ClapModel(config).eval()
    model.save_pretrained(copy)
    edit(copy / "preprocessor_config.json", truncation="fusion")
    extractor = ClapFeatureExtractor.from_pretrained(copy)
    audio = extractor([waveform[0] for waveform in waveforms], sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        short = torch.zeros(len(waveforms), 1, dtype=torch.bool)
        expected = model.get_audio_features(audio["input_features"], is_longer=short).pooler_output
        heard = ClapReward(copy, "fusion").embed_audio(waveforms, RATE)
    torch.testing.assert_close(heard, expected, atol=1e-4, rtol=0)


def test_a_model_with_a_time_code_hears_what_it_was_trained_on(
    clap_dir: Path, tmp_path: Path, waveforms: list[NDArray[np.float32]]
) -> None:
    copy = copied(clap_dir, tmp_path)
    config = json.loads((copy / "config.json").read_text())
    config["audio_config"]["time_code"] = 20.0
    edit(copy / "config.json", audio_config=config["audio_config"])
    coded, log_mel = ClapReward(copy, "coded"), LogMel(LogMelConfig())
    features = torch.stack([log_mel(log_mel.fit(torch.from_numpy(waveform[0]))[None])[0] for waveform in waveforms])
    with torch.no_grad():
        model: Any = ClapModel.from_pretrained(copy).eval()
        torch.testing.assert_close(coded.embed_audio(waveforms, RATE), audio_embeddings(model, features))
        plain = ClapReward(clap_dir, "plain").embed_audio(waveforms, RATE)
    assert (coded.embed_audio(waveforms, RATE) - plain).abs().max() > 0.05


def test_a_score_is_the_same_alone_and_in_a_batch(reward: ClapReward, waveforms: list[NDArray[np.float32]]) -> None:
    prompts, many = PROMPTS * 7, waveforms * 7
    alone = [reward([prompt], [waveform], RATE)[0] for prompt, waveform in zip(PROMPTS, waveforms, strict=True)]
    np.testing.assert_allclose(reward(prompts, many, RATE), alone * 7, atol=1e-6)
    assert reward([], [], RATE).shape == (0,)


def test_channels_are_averaged(reward: ClapReward, waveforms: list[NDArray[np.float32]]) -> None:
    first, second = waveforms[0], waveforms[0][:, ::-1]
    stereo = np.concatenate((first, second))
    scores = reward(PROMPTS[:1] * 3, [stereo, stereo.mean(axis=0, keepdims=True), first], RATE)
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert scores[0] != pytest.approx(scores[2], abs=1e-3)


def test_audio_of_another_rate_is_resampled(reward: ClapReward, waveforms: list[NDArray[np.float32]]) -> None:
    higher = AF.resample(torch.from_numpy(waveforms[0]), RATE, 44_100).numpy()
    scores = [reward(PROMPTS[:1], [audio], rate)[0] for audio, rate in ((waveforms[0], RATE), (higher, 44_100))]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)
    assert scores[0] != pytest.approx(reward(PROMPTS[:1], [higher], RATE)[0], abs=0.02)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_waveform_that_is_not_finite_has_no_score_and_spoils_no_other(
    reward: ClapReward, waveforms: list[NDArray[np.float32]], value: float
) -> None:
    broken = waveforms[1].copy()
    broken[0, 17] = value
    scores = reward(PROMPTS, [waveforms[0], broken, waveforms[2]], RATE)
    assert np.isnan(scores).tolist() == [False, True, False]
    np.testing.assert_allclose(scores[[0, 2]], reward(PROMPTS, waveforms, RATE)[[0, 2]], atol=1e-6)


def test_no_samples_have_no_score_but_silence_has(reward: ClapReward) -> None:
    scores = reward(PROMPTS[:2], [np.zeros((1, 0), np.float32), np.zeros((1, RATE), np.float32)], RATE)
    assert np.isnan(scores).tolist() == [True, False]


def test_of_audio_beyond_the_maximum_the_first_part_counts(
    reward: ClapReward, waveforms: list[NDArray[np.float32]]
) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, (1, 6 * RATE)).astype(np.float32)
    long = np.concatenate((np.tile(waveforms[0], 4)[:, : 4 * RATE], noise), axis=1)
    scores = {float(reward(PROMPTS[:1], [audio], RATE)[0]) for audio in (long, long, long[:, : 4 * RATE])}
    assert len(scores) == 1


@pytest.mark.parametrize("text", ["", "a dog barks " * 1000, "🐕" * 500, "\ud800 half", "\x00\x1b[31m\u202e", "a\nb\t"])
def test_any_text_has_a_score(reward: ClapReward, waveforms: list[NDArray[np.float32]], text: str) -> None:
    assert np.isfinite(reward([text], waveforms[:1], RATE)).all()


def test_a_tokenizer_that_knows_no_maximum_is_cut_to_the_positions(
    clap_dir: Path, tmp_path: Path, reward: ClapReward, waveforms: list[NDArray[np.float32]]
) -> None:
    copy = copied(clap_dir, tmp_path)
    edit(copy / "tokenizer_config.json", model_max_length=None)
    long = ["a dog barks " * 1000]
    assert ClapReward(copy, "copy")(long, waveforms[:1], RATE) == pytest.approx(reward(long, waveforms[:1], RATE))


def test_the_checkpoint_tells_weights_apart(clap_dir: Path, tmp_path: Path, reward: ClapReward) -> None:
    copy = copied(clap_dir, tmp_path)
    assert ClapReward(copy, "copy").checkpoint == reward.checkpoint
    ClapModel.from_pretrained(clap_dir, dtype=torch.float32).half().save_pretrained(copy)
    assert ClapReward(copy, "copy").checkpoint != reward.checkpoint


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"])
def test_a_missing_or_truncated_file_is_named(clap_dir: Path, tmp_path: Path, name: str) -> None:
    copy = copied(clap_dir, tmp_path)
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=name.removesuffix("r.json") + r"|tokenizer in .*tiny-clap"):
        ClapReward(copy, "copy")
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}.* missing"):
        ClapReward(copy, "copy")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("config.json", {"text_config": 3}, "config.json is not the config of a ClapModel"),
        ("config.json", {"projection_dim": 16}, "model.safetensors does not fit the model: wrong shape: "),
        (
            "config.json",
            {"audio_config": {"enable_fusion": True, "fusion_type": "daf_2d"}},
            "fusion type 'daf_2d' is not",
        ),
        ("preprocessor_config.json", {"hop_length": None}, "preprocessor_config.json .*hop_length"),
        ("preprocessor_config.json", {"padding": "sometimes"}, "preprocessor_config.json .*padding"),
        ("preprocessor_config.json", {"sampling_rate": "16 kHz"}, "preprocessor_config.json .*sampling_rate"),
        ("tokenizer.json", {"model": None}, "the tokenizer in .* cannot be read"),
    ],
)
def test_a_file_of_something_else_is_refused(
    clap_dir: Path, tmp_path: Path, name: str, values: dict[str, Any], message: str
) -> None:
    copy = copied(clap_dir, tmp_path)
    edit(copy / name, **values)
    with pytest.raises(CheckpointError, match=message):
        ClapReward(copy, "copy")


def copied(clap_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clap_dir, tmp_path / clap_dir.name))


def edit(file: Path, **values: Any) -> None:
    """Sets keys of a JSON file; None removes one."""
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

import doctest
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config

import tangoflux.pipeline
from tangoflux.errors import CheckpointError, ConfigError
from tangoflux.model.policy import Policy, PolicyConfig
from tangoflux.pipeline import TangoFlux
from tangoflux.sampling_params import Precision
from tests.tiny import tiny_model


def test_a_saved_and_loaded_model_gives_the_same_audio(tiny_policy_dir: Path) -> None:
    loaded = TangoFlux.from_pretrained(tiny_policy_dir)
    for model in (tiny_model(), loaded):
        for key, value in model.policy.state_dict().items():
            assert torch.equal(value, loaded.policy.state_dict()[key]), key
    audio = [m.generate("a dog barks", 1.0, num_steps=2, guidance_scale=2.0) for m in (tiny_model(), loaded)]
    np.testing.assert_array_equal(audio[0][0][0], audio[1][0][0])


def test_the_directory_has_the_published_layout(tiny_policy_dir: Path) -> None:
    keys = load_file(tiny_policy_dir / "tangoflux.safetensors").keys()
    assert "text_encoder.encoder.embed_tokens.weight" not in keys
    assert {
        "text_encoder.shared.weight",
        "fc.0.weight",
        "duration_emebdder.time_positional_embedding.0.weights",
    } <= keys
    assert (tiny_policy_dir / "vae.safetensors").exists()
    assert json.loads((tiny_policy_dir / "config.json").read_text())["audio_seq_len"] == 63


def test_audio_has_exactly_the_asked_length_and_stays_in_range() -> None:
    groups = tiny_model().generate(["a dog barks", "x"], [1.0, 2.3], num_samples=2, num_steps=1)
    assert [waveform.shape for group in groups for waveform in group] == [(1, 16000)] * 2 + [(1, 36800)] * 2
    assert all(np.abs(waveform).max() <= 1 for group in groups for waveform in group)


def test_in_full_mode_all_frames_are_sampled_and_the_audio_is_cut() -> None:
    model = tiny_model(latent_frames="full")
    assert model.num_frames(1.0) == 63
    assert model.generate("a dog barks", 1.0, num_steps=1)[0][0].shape == (1, 16000)


@pytest.mark.parametrize(
    "text", ["", "x" * 10_000, "犬が吠える 🐕", "\ud800 lone surrogate", "\x00\x1b[31m", "a\nb\tc"]
)
def test_any_text_is_accepted(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tangoflux.model.policy"):
        waveform = tiny_model().generate(text, 0.5, num_steps=1)[0][0]
    assert np.isfinite(waveform).all()
    assert ("cut to its first 96 tokens" in caplog.text) == (len(text) == 10_000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"duration_s": 1, "num_steps": 0}, "num_steps 0 must be from 1 to 1000"),
        ({"duration_s": 1, "num_samples": 0}, "num_samples 0: give 1 or more"),
        ({"duration_s": 1, "guidance_scale": float("nan")}, "guidance_scale nan must be a number from 0 to 100"),
        ({"duration_s": [1.0]}, "1 durations for 2 prompts"),
    ],
)
def test_what_cannot_be_sampled_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_model().generate(["a dog", "a bell"], **arguments)


PRECISIONS: tuple[Precision | None, Precision] = (None, "bf16")


def test_samples_in_bf16_are_near_those_in_fp32() -> None:
    model = tiny_model()
    exact, rounded = (model.generate("a dog", 1.0, num_steps=2, precision=precision)[0][0] for precision in PRECISIONS)
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(exact, rounded, atol=0.1)


@pytest.mark.parametrize("duration", [0.0, -1.0, 4.5, float("nan")])
def test_a_duration_out_of_range_is_refused(duration: float) -> None:
    with pytest.raises(ConfigError, match="duration_s"):
        tiny_model().generate("a dog barks", duration)


@pytest.mark.parametrize(
    ("name", "message"), [("no/such/dir", "not a model directory"), ("/nowhere", "not a model directory")]
)
def test_a_name_that_is_nothing_is_refused(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        TangoFlux.from_pretrained(name)


def broken(source: Path, target: Path, change: str) -> Path:
    tiny = TangoFlux.from_pretrained(source)
    tiny.save_pretrained(target)
    file = target / "tangoflux.safetensors"
    weights = load_file(file)
    if change == "missing":
        del weights["fc.0.bias"]
    elif change == "unexpected":
        weights["fc.9.bias"] = torch.zeros(1)
    elif change == "shape":
        weights["fc.0.bias"] = torch.zeros(3)
    save_file(weights, file)
    if change == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif change == "config":
        (target / "config.json").unlink()
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "missing fc.0.bias"),
        ("unexpected", "unexpected fc.9.bias"),
        ("shape", r"fc.0.bias \(3,\) instead of \(16,\)"),
        ("truncated", "truncated"),
        ("config", "config.json is missing"),
    ],
)
def test_a_broken_checkpoint_is_named(tiny_policy_dir: Path, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        TangoFlux.from_pretrained(broken(tiny_policy_dir, tmp_path / "broken", change))


def test_a_published_training_checkpoint_loads_without_its_reference(tiny_policy_dir: Path, tmp_path: Path) -> None:
    model = TangoFlux.from_pretrained(tiny_policy_dir)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "tangoflux.safetensors")
    reference = {f"ref_{key}": torch.zeros(1) for key in weights if key.startswith("transformer.")}
    save_file({**weights, **reference, "beta_dpo": torch.tensor(2000.0)}, tmp_path / "tangoflux.safetensors")
    loaded = TangoFlux.from_pretrained(tmp_path).policy.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in model.policy.state_dict().items())


def test_the_papers_config_has_the_papers_parameters() -> None:
    tokenizer = tiny_model().policy.tokenizer
    with torch.device("meta"):
        policy = Policy(PolicyConfig(), T5Config(d_model=1024, num_layers=1), tokenizer)
    counts = [
        sum(parameter.numel() for parameter in module.parameters())
        for module in (policy.transformer, policy.fc, policy.duration_emebdder)
    ]
    assert counts == [516_695_616, 1_049_600, 264_320]


def test_the_examples_of_the_python_api_run() -> None:
    result = doctest.testmod(tangoflux.pipeline, optionflags=doctest.ELLIPSIS)
    assert result.attempted >= 3
    assert result.failed == 0

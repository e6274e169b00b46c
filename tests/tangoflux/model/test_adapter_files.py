"""A directory of an adapter: loaded by us and by peft, refused where something is wrong with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from tangoflux.errors import CheckpointError, ConfigError
from tangoflux.model.adapter_files import base_directory, check_adapter, read_adapter, write_adapter
from tangoflux.model.layout import load_lora_policy, load_policy
from tangoflux.model.lora import TARGETS, LoraSettings
from tangoflux.pipeline import TangoFlux
from tests.tiny import LORA, tiny_lora


@pytest.fixture
def adapter_dir(tmp_path: Path, tiny_policy_dir: Path) -> Path:
    """An adapter beside a copy of its base."""
    shutil.copytree(tiny_policy_dir, tmp_path / "base")
    directory = tmp_path / "adapter"
    directory.mkdir()
    for name in ("config.json", "vae_config.json"):
        shutil.copy(tiny_policy_dir / name, directory / name)
    write_adapter(directory, "../base", LORA, tiny_lora(tiny_policy_dir))
    return directory


def test_what_is_read_is_what_was_written(adapter_dir: Path, tiny_policy_dir: Path) -> None:
    settings, trained = read_adapter(adapter_dir)
    expected = tiny_lora(tiny_policy_dir)
    assert settings == LORA and trained.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in trained.items())
    assert base_directory(tiny_policy_dir) == tiny_policy_dir
    assert base_directory(adapter_dir).resolve() == adapter_dir.parent / "base"


def test_a_policy_to_train_has_the_adapter_as_it_was(adapter_dir: Path, tiny_policy_dir: Path) -> None:
    policy, expected = load_lora_policy(adapter_dir, LORA), tiny_lora(tiny_policy_dir)
    found = {name: value for name, value in policy.named_parameters() if value.requires_grad}
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_the_directory_gives_audio_like_any_other(adapter_dir: Path, tiny_policy_dir: Path) -> None:
    audio = [
        TangoFlux.from_pretrained(directory).generate("a dog barks", 1.0, num_steps=2)[0][0]
        for directory in (adapter_dir, tiny_policy_dir)
    ]
    assert audio[0].shape == audio[1].shape and abs(audio[0] - audio[1]).max() > 1e-3


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"use_rslora": True},
        {"use_rslora": True, "lora_alpha": 3},
        {"use_rslora": False, "lora_dropout": 0.5, "init_lora_weights": "gaussian", "bias": "none"},
    ],
)
def test_peft_loads_the_adapter_with_the_same_result(
    adapter_dir: Path, tiny_policy_dir: Path, fields: dict[str, object]
) -> None:
    configure(adapter_dir, fields)
    theirs = PeftModel.from_pretrained(load_policy(tiny_policy_dir).transformer, str(adapter_dir))
    merged = theirs.merge_and_unload().state_dict()
    for name, value in load_policy(adapter_dir).transformer.state_dict().items():
        torch.testing.assert_close(merged[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [LoraSettings(8, 8), LoraSettings(4, 16)])
def test_an_adapter_of_other_settings_is_not_trained_on(adapter_dir: Path, settings: LoraSettings) -> None:
    with pytest.raises(ConfigError, match=r"has a LoRA adapter of rank 4 and alpha 8, not .*: train with these"):
        load_lora_policy(adapter_dir, settings)


def test_any_training_may_start_from_whole_weights_and_one_of_all_weights_from_anything(
    adapter_dir: Path, tiny_policy_dir: Path
) -> None:
    check_adapter(tiny_policy_dir, LoraSettings(16, 1))
    check_adapter(adapter_dir, None)
    check_adapter(adapter_dir, LORA)


def test_an_adapter_without_its_base_is_refused(adapter_dir: Path) -> None:
    shutil.rmtree(adapter_dir.parent / "base")
    with pytest.raises(CheckpointError, match=r"base\.json refers to '\.\./base', which is not a model directory"):
        TangoFlux.from_pretrained(adapter_dir)


@pytest.mark.parametrize("name", [None, 3, "../adapter"])
def test_a_base_that_is_none_is_refused(adapter_dir: Path, name: object) -> None:
    (adapter_dir / "base.json").write_text(json.dumps({"base": name}))
    with pytest.raises(CheckpointError, match=r"base\.json refers to"):
        load_policy(adapter_dir)


def configure(directory: Path, fields: dict[str, object]) -> None:
    """Changes fields of an adapter's configuration."""
    file = directory / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("peft_type", "LOHA"),
        ("use_dora", True),
        ("rank_pattern", {"to_q": 8}),
        ("alpha_pattern", {"to_q": 8}),
        ("bias", "all"),
        ("lora_bias", True),
        ("modules_to_save", ["proj_out"]),
        ("fan_in_fan_out", True),
        ("layers_to_transform", [0]),
        ("layer_replication", [[0, 1]]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "loftq"),
        ("megatron_config", {"a": 1}),
        ("target_parameters", ["weight"]),
        ("exclude_modules", ["to_q"]),
        ("trainable_token_indices", [1]),
        ("use_qalora", True),
        ("invented_later", 0.5),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(adapter_dir: Path, name: str, value: object) -> None:
    configure(adapter_dir, {name: value})
    with pytest.raises(CheckpointError, match=f"asks for what is not implemented: {name} "):
        load_policy(adapter_dir)


def test_the_configuration_that_peft_writes_is_accepted(adapter_dir: Path) -> None:
    LoraConfig(r=LORA.rank, lora_alpha=int(LORA.alpha), target_modules=TARGETS, inference_mode=True).save_pretrained(
        str(adapter_dir)
    )
    assert read_adapter(adapter_dir)[0] == LORA


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"r": 4.5, "lora_alpha": 1},
        {"r": 4, "lora_alpha": float("inf")},
        {"r": "four", "lora_alpha": 1},
        {"r": 0, "lora_alpha": 1},
        {"r": None},
    ],
)
def test_a_config_that_is_none_is_refused(adapter_dir: Path, config: object) -> None:
    (adapter_dir / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"adapter_config\.json has no r and lora_alpha"):
        load_policy(adapter_dir)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "conditioning.safetensors", "adapter_config.json"])
def test_a_missing_file_is_named(adapter_dir: Path, name: str) -> None:
    (adapter_dir / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_policy(adapter_dir)


@pytest.mark.parametrize("load", ["to sample", "to train"])
@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("adapter_model.safetensors", "base_model.model.transformer_blocks.0.attn.to_q.lora_A.weight"),
        ("conditioning.safetensors", "fc.0.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named(adapter_dir: Path, load: str, file: str, key: str) -> None:
    weights = load_file(adapter_dir / file)
    save_file({**weights, key: torch.zeros(3, 3)}, adapter_dir / file)
    with pytest.raises(CheckpointError, match=r"does not fit .*(to_q\.lora_A\.default\.weight|fc\.0\.weight)"):
        load_policy(adapter_dir) if load == "to sample" else load_lora_policy(adapter_dir, LORA)

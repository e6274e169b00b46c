"""An adapter on disk: a directory of small files next to the model that it was trained on.

adapter_config.json, adapter_model.safetensors   the adapter in peft's layout, over the transformer
conditioning.safetensors                         ``fc`` and the duration embedder, which are fully trained
base.json                                        the directory of the model, relative to this one
config.json, vae_config.json                     the model's
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tangoflux.errors import CheckpointError, ConfigError
from tangoflux.model.checkpoint import read_json, read_weights, write_weights
from tangoflux.model.lora import TARGETS, LoraSettings, merge

BASE = "base.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER = "adapter_model.safetensors"
CONDITIONING = "conditioning.safetensors"

POLICY_PREFIX, PEFT_PREFIX = "transformer.", "base_model.model."


def base_directory(directory: Path) -> Path:
    """The model directory that an adapter's directory refers to; any other directory itself.

    Raises:
        CheckpointError: the adapter refers to no model directory.
    """
    if not (directory / BASE).exists():
        return directory
    name = read_json(directory / BASE).get("base")
    base = directory / str(name)
    if not isinstance(name, str) or not base.is_dir() or (base / BASE).exists():
        raise CheckpointError(
            f"{directory / BASE} refers to {name!r}, which is not a model directory; an adapter needs its base model"
        )
    return base


def read_adapter(directory: Path) -> tuple[LoraSettings, dict[str, Tensor]]:
    """An adapter's settings and all trained tensors, by their names in a policy with an adapter.

    Raises:
        CheckpointError: a file is missing, truncated or invalid.
    """
    adapter = {_to_policy(key): value for key, value in read_weights(directory / ADAPTER).items()}
    return read_settings(directory), {**adapter, **read_weights(directory / CONDITIONING)}


def read_settings(directory: Path) -> LoraSettings:
    """The settings of an adapter.

    Raises:
        CheckpointError: they cannot be read.
    """
    file = directory / ADAPTER_CONFIG
    values = read_json(file)
    try:
        return LoraSettings(int(values["r"]), float(values["lora_alpha"]))
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{file} has no r and lora_alpha of a LoRA adapter: {error}") from None


def write_adapter(directory: Path, base: str, settings: LoraSettings, trained: Mapping[str, Tensor]) -> None:
    """Writes an adapter without the model's configs.

    Args:
        directory: must exist.
        base: the model's directory, relative to ``directory``.
        trained: as ``read_adapter`` returns it.
    """
    adapter = {_to_peft(name): value.contiguous() for name, value in trained.items() if ".lora_" in name}
    conditioning = {name: value.contiguous() for name, value in trained.items() if ".lora_" not in name}
    write_weights(adapter, directory / ADAPTER)
    write_weights(conditioning, directory / CONDITIONING)
    values = {"peft_type": "LORA", "r": settings.rank, "lora_alpha": settings.alpha, "target_modules": TARGETS}
    (directory / ADAPTER_CONFIG).write_text(json.dumps(values, indent=2) + "\n")
    (directory / BASE).write_text(json.dumps({"base": base}) + "\n")


def with_adapter(weights: dict[str, Tensor], directory: Path) -> dict[str, Tensor]:
    """Merges the adapter of ``directory``, if it has one, into tensors of its base: all, or the trained ones.

    Raises:
        CheckpointError: the adapter belongs to another model or cannot be read.
    """
    if base_directory(directory) == directory:
        return weights
    settings, trained = read_adapter(directory)
    return merge(weights, trained, settings, str(directory))


def check_adapter(directory: Path, settings: LoraSettings | None) -> None:
    """Checks that LoRA training with these settings can continue from a directory's adapter, if it has one.

    Raises:
        ConfigError: rank or alpha differ.
    """
    if settings is None or base_directory(directory) == directory:
        return
    stored = read_settings(directory)
    if stored != settings:
        raise ConfigError(
            f"{directory} has a LoRA adapter of rank {stored.rank} and alpha {stored.alpha:g}, not {settings.rank} and "
            f"{settings.alpha:g}: train with these, or all weights with rank 0"
        )


def _to_policy(key: str) -> str:
    return POLICY_PREFIX + key.removeprefix(PEFT_PREFIX).replace(".lora_A.", ".lora_A.default.").replace(
        ".lora_B.", ".lora_B.default."
    )


def _to_peft(name: str) -> str:
    return PEFT_PREFIX + name.removeprefix(POLICY_PREFIX).replace(".default.", ".")

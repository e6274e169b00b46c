"""An adapter on disk: a directory of small files next to the model that it was trained on.

adapter_config.json, adapter_model.safetensors   the adapter in peft's layout, over the transformer
conditioning.safetensors                         ``fc`` and the duration embedder, which are fully trained
base.json                                        the directory of the model, relative to this one
config.json, vae_config.json                     the model's
"""

from __future__ import annotations

import json
import math
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

FIELDS = {
    *("r", "lora_alpha", "use_rslora"),
    # Where the adapter comes from, and how it was trained.
    *("peft_version", "base_model_name_or_path", "revision", "task_type", "auto_mapping", "inference_mode"),
    *("lora_dropout", "eva_config", "loftq_config", "corda_config", "lora_ga_config", "runtime_config"),
    # The tensors themselves say which modules are adapted.
    "target_modules",
}
"""Fields of peft's configuration that are used, or do not matter to a trained adapter."""

NEUTRAL: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, "gaussian", "eva", "orthogonal"),  # others change the base, too
    "megatron_core": ("megatron.core",),  # has an effect with megatron_config only
    "qalora_group_size": (16,),  # with use_qalora only
}
"""Values of further fields that have no effect, besides those that are empty or false."""

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
    """The settings of an adapter. One with ``use_rslora`` gets the alpha with which it acts the same without.

    Raises:
        CheckpointError: they cannot be read, or ask for what is not implemented.
    """
    file = directory / ADAPTER_CONFIG
    values = read_json(file)
    try:
        rank, alpha, use_rslora = values["r"], float(values["lora_alpha"]), bool(values.get("use_rslora"))
        if int(rank) != rank:
            raise ValueError(f"r is {rank!r}")
        settings = LoraSettings(int(rank), alpha * math.sqrt(rank) if use_rslora else alpha)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{file} has no r and lora_alpha of a LoRA adapter: {error}") from None
    unknown = [f"{name} {value!r}" for name, value in sorted(values.items()) if _has_effect(name, value)]
    if unknown:
        raise CheckpointError(f"{file} asks for what is not implemented: {', '.join(unknown)}")
    return settings


def _has_effect(name: str, value: object) -> bool:
    """Whether a field, perhaps of a later peft, may change what the adapter computes from its tensors."""
    return bool(value) and name not in FIELDS and value not in NEUTRAL.get(name, ())


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

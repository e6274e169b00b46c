"""The published code (github.com/declare-lab/TangoFlux), imported from the user's clone, with our weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from tangoflux.errors import ConfigError

FLAN_T5_LARGE = {"vocab_size": 32128, "d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_heads": 16}
"""The text encoder's shape in the published model."""


def load_published(repository: Path) -> Any:
    """The published ``model.py`` as a module.

    Raises:
        ConfigError: it is missing, or imports a package that is not installed.
    """
    file = repository / "tangoflux" / "model.py"
    if not file.is_file():
        raise ConfigError(f"{file} is not there: give the folder of a clone of github.com/declare-lab/TangoFlux")
    spec = importlib.util.spec_from_file_location("published_tangoflux", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{file} needs the package {error.name}: install it") from error
    return module


def give_text_encoder(code: Any, encoder: T5EncoderModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Replaces the text encoder and tokenizer that the published class would download from the hub."""
    code.T5EncoderModel, code.T5TokenizerFast = _Loaded(encoder), _Loaded(tokenizer)


def published_latents(
    published: Any,
    prompt: str,
    duration_s: float,
    num_steps: int,
    guidance_scale: float,
    seed: int,
    num_samples: int = 1,
) -> Tensor:
    """Latents (num_samples, frames, channels) by the published sampler."""
    return published.inference_flow(
        prompt,
        num_inference_steps=num_steps,
        guidance_scale=guidance_scale,
        duration=duration_s,
        seed=seed,
        disable_progress=True,
        num_samples_per_prompt=num_samples,
    )


class _Loaded:
    """Replaces a class: ``from_pretrained`` returns an object that is already loaded."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def from_pretrained(self, name: str) -> Any:
        return self.value

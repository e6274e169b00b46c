"""Sizes of a policy in the published layout, read without loading it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from actors.policy_store import WEIGHTS
from tangoflux.autoencoder import AutoencoderConfig
from tangoflux.checkpoint import read_json
from tangoflux.errors import CheckpointError
from tangoflux.policy import PolicyConfig


@dataclass(frozen=True)
class ModelFacts:
    """The sizes.

    Attributes:
        audio_seq_len: most frames of latents of a row.
        latent_channels: channels of the latents.
        max_duration_s: longest audio, in seconds.
        sample_rate_hz, audio_channels: of the waveforms.
        trained: parameters that alignment trains.
        text_encoder, codec: parameters that it does not.
        file_bytes: the stored weights, policy and codec.
        width, blocks: of the transformer.
    """

    audio_seq_len: int
    latent_channels: int
    max_duration_s: float
    sample_rate_hz: int
    audio_channels: int
    trained: int
    text_encoder: int
    codec: int
    file_bytes: int
    width: int
    blocks: int


def read_model_facts(directory: Path) -> ModelFacts:
    """The sizes of a policy in the published layout, from its JSON files and the headers of its weights.

    Raises:
        CheckpointError: a file is missing or is not what it should be.
    """
    policy = PolicyConfig.from_dict(read_json(directory / "config.json"))
    codec = AutoencoderConfig.read(directory)
    sizes = _tensor_sizes(directory / WEIGHTS)
    text_encoder = sum(size for name, size in sizes.items() if name.startswith("text_encoder."))
    return ModelFacts(
        audio_seq_len=policy.audio_seq_len,
        latent_channels=policy.in_channels,
        max_duration_s=policy.max_duration,
        sample_rate_hz=codec.sampling_rate,
        audio_channels=codec.audio_channels,
        trained=sum(sizes.values()) - text_encoder,
        text_encoder=text_encoder,
        codec=sum(_tensor_sizes(directory / "vae.safetensors").values()),
        file_bytes=sum((directory / name).stat().st_size for name in (WEIGHTS, "vae.safetensors")),
        width=policy.num_attention_heads * policy.attention_head_dim,
        blocks=policy.num_layers + policy.num_single_layers,
    )


def _tensor_sizes(file: Path) -> dict[str, int]:
    """Numbers in each tensor of a safetensors file."""
    if not file.is_file():
        raise CheckpointError(f"{file} is missing: is {file.parent} a model directory?")
    try:
        with safe_open(file, framework="numpy") as tensors:
            return {name: math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{file} is truncated or no safetensors file ({error}); download or build it again"
        ) from None

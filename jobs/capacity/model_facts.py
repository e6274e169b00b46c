"""Sizes of a policy in the published layout, read without loading it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from actors.storage.policy_files import WEIGHTS
from tangoflux.model.adapter_files import base_directory
from tangoflux.model.autoencoder import AutoencoderConfig
from tangoflux.model.checkpoint import read_json, read_shapes
from tangoflux.model.lora import WHOLE, trained_shapes
from tangoflux.model.policy import PolicyConfig


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of a policy.

    Attributes:
        audio_seq_len: the largest number of latent frames of a row.
        latent_channels: channels of the latents.
        max_duration_s: the longest audio in seconds.
        sample_rate_hz, audio_channels: of the waveforms.
        trained: parameters that alignment trains.
        text_encoder, codec: parameters that alignment does not train.
        adapter_per_rank: parameters of a LoRA adapter per rank.
        conditioning: parameters that LoRA trains in full.
        decoded_row: numbers in the codec's last block for a row of ``audio_seq_len`` frames.
        decoded_at_once: the largest number of rows that a CPU decodes together.
        file_bytes: the stored weights of policy and codec.
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
    adapter_per_rank: int
    conditioning: int
    decoded_row: int
    decoded_at_once: int
    file_bytes: int
    width: int
    blocks: int

    def trained_with(self, lora_rank: int) -> int:
        """Parameters that alignment trains, with a LoRA adapter of this rank; 0 means no adapter."""
        return lora_rank * self.adapter_per_rank + self.conditioning if lora_rank else self.trained


def read_model_facts(directory: Path) -> ModelFacts:
    """The sizes of a policy in the published layout, from its JSON files and the headers of its weights.

    A LoRA version has the sizes of its base.

    Raises:
        CheckpointError: a file is missing or malformed.
    """
    directory = base_directory(directory)
    policy = PolicyConfig.from_dict(read_json(directory / "config.json"))
    codec = AutoencoderConfig.read(directory)
    shapes = read_shapes(directory / WEIGHTS)
    lora = trained_shapes(shapes, 1)
    text_encoder = _numbers(shapes, "text_encoder.")
    return ModelFacts(
        audio_seq_len=policy.audio_seq_len,
        latent_channels=policy.in_channels,
        max_duration_s=policy.max_duration,
        sample_rate_hz=codec.sampling_rate,
        audio_channels=codec.audio_channels,
        trained=_numbers(shapes) - text_encoder,
        text_encoder=text_encoder,
        codec=_numbers(read_shapes(directory / "vae.safetensors")),
        adapter_per_rank=_numbers(lora, "transformer."),
        conditioning=_numbers(lora, WHOLE),
        decoded_row=codec.decoded_numbers(policy.audio_seq_len),
        decoded_at_once=codec.rows_at_once(policy.audio_seq_len, "cpu"),
        file_bytes=sum((directory / name).stat().st_size for name in (WEIGHTS, "vae.safetensors")),
        width=policy.num_attention_heads * policy.attention_head_dim,
        blocks=policy.num_layers + policy.num_single_layers,
    )


def _numbers(shapes: Mapping[str, tuple[int, ...]], prefix: str | tuple[str, ...] = "") -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix))

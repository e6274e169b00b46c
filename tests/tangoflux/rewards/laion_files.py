"""Checkpoints as laion_clap's training writes them, with random weights, and a small ``roberta-base`` beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

from tangoflux.miniature_training.clap_files import make_tokenizer

Shapes = dict[str, tuple[int, ...]]

POSITIONS, INTERMEDIATE, CLASSES = 90, 32, 527
DEPTHS, HEADS = (2, 1, 1, 1), (4, 8, 16, 32)
CONSTANTS = ("attn_mask", "relative_position_index", "conv_real.weight", "conv_imag.weight", "melW")


@dataclass(frozen=True)
class Sizes:
    """Widths of the patch embeddings, the text encoder and the embeddings; the defaults fit laion_clap's classes."""

    audio: int = 96
    text: int = 768
    joint: int = 512
    vocabulary: int = 5
    fusion: bool = False


def write_roberta_tokenizer(directory: Path) -> int:
    """A tokenizer of a few hundred tokens in RoBERTa's files; returns how many there are."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer: Any = make_tokenizer(0, captions=50)
    tokenizer.backend_tokenizer.model.save(str(directory))
    return len(RobertaTokenizer.from_pretrained(directory))


def write_roberta_model(directory: Path, vocabulary: int) -> None:
    """A RobertaModel of one layer, from which laion_clap builds its text encoder."""
    config = RobertaConfig(
        vocab_size=vocabulary,
        num_hidden_layers=1,
        intermediate_size=INTERMEDIATE,
        max_position_embeddings=POSITIONS,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    RobertaModel(config).save_pretrained(directory)


def laion_state(sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
    """Weights by laion_clap's names that tell inputs apart; its constants are zero."""
    generator = torch.Generator().manual_seed(seed)
    return {key: _value(key, shape, generator) for key, shape in laion_shapes(sizes).items()}


def write_laion_checkpoint(file: Path, state: dict[str, Tensor], **extra: Any) -> Path:
    """The file of laion_clap's training: what was distributed, with optimiser state and numpy scores."""
    content = {
        "epoch": 15,
        "name": "tiny",
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": np.float64(1e-4)}]},
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "metrics": {"recall": np.float64(0.5), "loss": np.float32(0.25), "count": np.int64(7)},
    }
    torch.save({**content, **extra}, file)
    return file


def laion_shapes(sizes: Sizes) -> Shapes:
    """Shapes by laion_clap's names."""
    shapes: Shapes = {"logit_scale_a": (), "logit_scale_t": (), **_audio_shapes(sizes), **_text_shapes(sizes)}
    for branch, width in (("audio", 8 * sizes.audio), ("text", sizes.text)):
        for layer in (0, 3):
            shapes |= _linear(f"{branch}_transform.sequential.{layer}", sizes.joint, sizes.joint)
        shapes |= _linear(f"{branch}_projection.0", sizes.joint, width)
        shapes |= _linear(f"{branch}_projection.2", sizes.joint, sizes.joint)
    return shapes


def _audio_shapes(sizes: Sizes) -> Shapes:
    last = 8 * sizes.audio
    shapes: Shapes = {
        "spectrogram_extractor.stft.conv_real.weight": (513, 1, 1024),
        "spectrogram_extractor.stft.conv_imag.weight": (513, 1, 1024),
        "logmel_extractor.melW": (513, 64),
        **_batch_norm("bn0", 64),
        **_linear("patch_embed.proj", sizes.audio, 1, 4, 4),
        **_norm("patch_embed.norm", sizes.audio),
        **_norm("norm", last),
        **_linear("tscam_conv", CLASSES, last, 2, 3),
        **_linear("head", CLASSES, CLASSES),
    }
    for layer in range(len(DEPTHS)):
        shapes |= _layer(layer, sizes.audio << layer)
    if sizes.fusion:
        shapes |= _fusion(sizes.audio)
    return {f"audio_branch.{key}": shape for key, shape in shapes.items()}


def _layer(layer: int, width: int) -> Shapes:
    shapes: Shapes = {}
    for block in range(DEPTHS[layer]):
        shapes |= {f"blocks.{block}.{key}": shape for key, shape in _block(width, HEADS[layer]).items()}
    if DEPTHS[layer] > 1:
        shapes["blocks.1.attn_mask"] = (64, 64, 64)
    if layer < len(DEPTHS) - 1:
        shapes |= {"downsample.reduction.weight": (2 * width, 4 * width), **_norm("downsample.norm", 4 * width)}
    return {f"layers.{layer}.{key}": shape for key, shape in shapes.items()}


def _block(width: int, heads: int) -> Shapes:
    return {
        **_norm("norm1", width),
        **_norm("norm2", width),
        "attn.relative_position_bias_table": (225, heads),
        "attn.relative_position_index": (64, 64),
        **_linear("attn.qkv", 3 * width, width),
        **_linear("attn.proj", width, width),
        **_linear("mlp.fc1", 4 * width, width),
        **_linear("mlp.fc2", width, 4 * width),
    }


def _fusion(width: int) -> Shapes:
    shapes = _linear("patch_embed.mel_conv2d", width, 1, 4, 12)
    for part, first in (("local_att", 0), ("global_att", 1)):
        for layer, (outputs, inputs) in ((first, (width // 4, width)), (first + 3, (width, width // 4))):
            shapes |= _linear(f"patch_embed.fusion_model.{part}.{layer}", outputs, inputs, 1, 1)
            shapes |= _batch_norm(f"patch_embed.fusion_model.{part}.{layer + 1}", outputs)
    return shapes


def _text_shapes(sizes: Sizes) -> Shapes:
    width, layer = sizes.text, "encoder.layer.0"
    shapes: Shapes = {
        "embeddings.position_ids": (1, POSITIONS),
        "embeddings.word_embeddings.weight": (sizes.vocabulary, width),
        "embeddings.position_embeddings.weight": (POSITIONS, width),
        "embeddings.token_type_embeddings.weight": (1, width),
        **_norm("embeddings.LayerNorm", width),
        **_norm(f"{layer}.attention.output.LayerNorm", width),
        **_norm(f"{layer}.output.LayerNorm", width),
        **_linear(f"{layer}.intermediate.dense", INTERMEDIATE, width),
        **_linear(f"{layer}.output.dense", width, INTERMEDIATE),
    }
    for name in (*(f"{layer}.attention.self.{part}" for part in ("query", "key", "value")), "pooler.dense"):
        shapes |= _linear(name, width, width)
    shapes |= _linear(f"{layer}.attention.output.dense", width, width)
    return {f"text_branch.{key}": shape for key, shape in shapes.items()}


def _linear(name: str, outputs: int, *inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, *inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _batch_norm(name: str, width: int) -> Shapes:
    running: Shapes = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}
    return {**_norm(name, width), **running, f"{name}.num_batches_tracked": ()}


def _value(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if key.endswith(("num_batches_tracked", "position_ids", "relative_position_index")):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith(CONSTANTS):
        return torch.zeros(shape)
    noise = 0.05 * torch.randn(shape, generator=generator)
    if key.startswith("audio_branch.bn0.running"):  # brings dB into the range in which the layers tell inputs apart
        return noise + (-40.0 if key.endswith("mean") else 400.0)
    is_scale = len(shape) == 1 and key.endswith((".weight", "running_var"))
    return noise + 1.0 if is_scale else noise

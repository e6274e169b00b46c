"""Checkpoints of laion_clap: reading one without unpickling, its model's shape, and its keys in transformers."""

from __future__ import annotations

import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import ClapConfig

from tangoflux.errors import CheckpointError
from tangoflux.model.checkpoint import no_permission

SCALAR: Any = np.float64(0).__reduce__()[0]
"""The function that rebuilds a pickled numpy scalar."""

NUMPY_TYPES: list[Any] = [
    (SCALAR, "numpy.core.multiarray.scalar"),
    (SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
]
"""Types of the training scores in a checkpoint; only these and torch's own may be unpickled."""

RENAMES = (
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"_projection\.0\.", "_projection.linear1."),
    (r"_projection\.2\.", "_projection.linear2."),
    (r"\.bn0\.", ".batch_norm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.self."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)

UNUSED = re.compile(
    r"^(text|audio)_transform\."  # heads of another loss
    r"|^audio_branch\.(spectrogram_extractor|logmel_extractor|tscam_conv|head)\."  # features and AudioSet's classes
    r"|\.(attn_mask|relative_position_index|position_ids)$"  # constants
)


@dataclass(frozen=True)
class LaionCheckpoint:
    """The state of laion_clap's CLAP model with an HTSAT and a RoBERTa.

    Attributes:
        state: its tensors by laion_clap's names.
    """

    state: dict[str, Tensor]

    @property
    def fusion(self) -> bool:
        """Whether it was trained with feature fusion (enable_fusion, aff_2d)."""
        return "audio_branch.patch_embed.mel_conv2d.weight" in self.state

    @property
    def audio_width(self) -> int:
        """Channels of the patch embeddings: 96 in HTSAT-tiny, 128 in HTSAT-base, 256 in HTSAT-large."""
        return self._shape("audio_branch.patch_embed.proj.weight")[0]

    @property
    def vocabulary(self) -> int:
        """The text encoder's number of tokens."""
        return self._shape("text_branch.embeddings.word_embeddings.weight")[0]

    def config(self) -> ClapConfig:
        """The config of the same model in transformers, read from the tensors' shapes."""
        width = self._shape("audio_projection.2.weight")[0]
        return ClapConfig(text_config=self._text_config(), audio_config=self._audio_config(), projection_dim=width)

    def transformers_state(self) -> dict[str, Tensor]:
        """The tensors by the names of transformers' ClapModel; unused ones are left out."""
        renamed: dict[str, Tensor] = {}
        for key, value in self.state.items():
            if not UNUSED.search(key):
                renamed |= _split(_renamed(key), value)
        return renamed

    def _text_config(self) -> dict[str, Any]:
        vocabulary, width = self._shape("text_branch.embeddings.word_embeddings.weight")
        return {
            "vocab_size": vocabulary,
            "hidden_size": width,
            "num_hidden_layers": self._count("text_branch.encoder.layer."),
            "num_attention_heads": width // 64,  # in RoBERTa of every size
            "intermediate_size": self._shape("text_branch.encoder.layer.0.intermediate.dense.weight")[0],
            "max_position_embeddings": self._shape("text_branch.embeddings.position_embeddings.weight")[0],
            "layer_norm_eps": 1e-5,  # RoBERTa's; ClapTextConfig has BERT's
        }

    def _audio_config(self) -> dict[str, Any]:
        layers = range(self._count("audio_branch.layers."))
        patch: list[int] = list(self._shape("audio_branch.patch_embed.proj.weight")[2:])
        attention = "audio_branch.layers.{}.blocks.0.attn.relative_position_bias_table"
        return {
            "patch_embeds_hidden_size": self.audio_width,
            "hidden_size": self.audio_width << (len(layers) - 1),
            "depths": [self._count(f"audio_branch.layers.{layer}.blocks.") for layer in layers],
            "num_attention_heads": [self._shape(attention.format(layer))[1] for layer in layers],
            "num_hidden_layers": len(layers),
            "patch_size": patch,
            "patch_stride": patch,
            "enable_fusion": self.fusion,
            "fusion_type": "aff_2d" if self.fusion else None,
        }

    def _shape(self, key: str) -> tuple[int, ...]:
        return tuple(self.state[key].shape)

    def _count(self, prefix: str) -> int:
        return len({key.removeprefix(prefix).split(".")[0] for key in self.state if key.startswith(prefix)})


def read_laion_checkpoint(file: Path) -> LaionCheckpoint:
    """Reads the tensors of a checkpoint of laion_clap; optimiser state and scores are ignored.

    Raises:
        CheckpointError: the file is missing, truncated, needs unpickling of other types, or has another model.
    """
    content = _load(file)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{file} is not a checkpoint of laion_clap: it has no dictionary of tensors")
    checkpoint = LaionCheckpoint({key.removeprefix("module."): value for key, value in state.items()})
    _check(checkpoint, file)
    return checkpoint


def _load(file: Path) -> Any:
    try:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing: download the checkpoint, or correct the path")
        with torch.serialization.safe_globals(NUMPY_TYPES):
            # Memory-mapped, so that the optimiser's state, twice as large as the model, is not read.
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), "it is not a file of torch.save")
        raise CheckpointError(f"{file} cannot be read without running code from it: {reason.strip()}") from error
    except PermissionError:
        raise no_permission(file) from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file} is truncated or not a file of torch.save; download it again") from error


def _check(checkpoint: LaionCheckpoint, file: Path) -> None:
    try:
        checkpoint.config()
    except KeyError as error:
        raise CheckpointError(f"{file} is not a checkpoint of laion_clap with HTSAT and RoBERTa: no {error}") from error


def _renamed(key: str) -> str:
    for pattern, replacement in RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def _split(key: str, value: Tensor) -> dict[str, Tensor]:
    """Splits laion_clap's stacked query, key and value; returns other tensors as they are."""
    if ".qkv." not in key:
        return {key: value}
    names = ("query", "key", "value")
    return {key.replace("qkv", name): part for name, part in zip(names, value.chunk(3), strict=True)}

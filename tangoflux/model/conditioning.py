"""The transformer's conditioning: text tokens, a duration token, and a pooled text vector (section 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, T5EncoderModel

TRAINING_MAX_TOKENS = 64
"""Captions are cut to this many tokens in training, as for the published weights."""


@dataclass(frozen=True)
class TextStates:
    """Encoded captions of a batch, padded to the longest.

    Attributes:
        states: (B, L, d) hidden states of the text encoder.
        token_mask: (B, L) true for real tokens; the pooled vector is their mean.
        attend_mask: (B, L) true for the positions that the transformer attends to: those the row would have alone.
            The masks differ for the unconditional "", whose padding to its prompt's length is attended to.
    """

    states: Tensor
    token_mask: Tensor
    attend_mask: Tensor

    def select(self, rows: Tensor | Sequence[int]) -> TextStates:
        """The given rows, which may repeat."""
        index = torch.as_tensor(rows, device=self.states.device)
        return TextStates(self.states[index], self.token_mask[index], self.attend_mask[index])

    def replace(self, rows: Sequence[int], others: TextStates) -> TextStates:
        """A copy with ``rows`` replaced by the rows of ``others``, which must not be longer."""
        index = (torch.tensor(rows, device=self.states.device),)
        others = others.padded(self.states.shape[1])
        return TextStates(
            self.states.index_put(index, others.states),
            self.token_mask.index_put(index, others.token_mask),
            self.attend_mask.index_put(index, others.attend_mask),
        )

    def padded(self, width: int) -> TextStates:
        """A copy padded to (B, width) with positions that are not attended to."""
        short = width - self.states.shape[1]
        pad = torch.nn.functional.pad
        return TextStates(
            pad(self.states, (0, 0, 0, short)), pad(self.token_mask, (0, short)), pad(self.attend_mask, (0, short))
        )

    def to(self, device: torch.device | str) -> TextStates:
        """A copy on another device."""
        return TextStates(self.states.to(device), self.token_mask.to(device), self.attend_mask.to(device))

    @staticmethod
    def concat(parts: Sequence[TextStates]) -> TextStates:
        """The rows of several batches of equal length L."""
        return TextStates(
            torch.cat([part.states for part in parts]),
            torch.cat([part.token_mask for part in parts]),
            torch.cat([part.attend_mask for part in parts]),
        )

    def pooled(self) -> Tensor:
        """Mean of each row's real tokens, (B, d)."""
        weights = self.token_mask.to(self.states.dtype).unsqueeze(-1)
        return (self.states * weights).sum(dim=1) / weights.sum(dim=1)


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, lengths: Sequence[int] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, token mask and attend mask, each (B, L).

    Args:
        max_length: longer texts are cut to this many tokens, the end token included.
        lengths: if given, text i is cut or padded to exactly ``lengths[i]`` tokens, and its padding is attended to.
    """
    limits = [max_length] * len(texts) if lengths is None else lengths
    rows: list[list[int]] = [
        tokenizer(_encodable(text), truncation=True, max_length=limit)["input_ids"]
        for text, limit in zip(texts, limits, strict=True)
    ]
    own = [len(row) for row in rows] if lengths is None else list(lengths)
    width = max(own)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    positions = torch.arange(width)
    token_mask = positions < torch.tensor([len(row) for row in rows])[:, None]
    attend_mask = positions < torch.tensor(own)[:, None]
    return ids, token_mask, attend_mask


def count_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Length of ``text`` in tokens, the end token included, before any cut."""
    return len(tokenizer(_encodable(text), verbose=False)["input_ids"])


def _encodable(text: str) -> str:
    """Replaces lone surrogates, which JSON can carry but UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def encode(encoder: T5EncoderModel, ids: Tensor, token_mask: Tensor, attend_mask: Tensor) -> TextStates:
    """Runs the text encoder; each row's states do not depend on the others."""
    device = encoder.device
    states = encoder(input_ids=ids.to(device), attention_mask=token_mask.to(device)).last_hidden_state
    return TextStates(states, token_mask.to(device), attend_mask.to(device))


class FourierFeatures(nn.Module):
    """Stable Audio's learned Fourier features of a number: (..., ) to (..., dim + 1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(dim // 2))

    def forward(self, values: Tensor) -> Tensor:
        """The value, then sines and cosines of its multiples."""
        values = values[..., None]
        angles = values * self.weights * (2 * math.pi)
        return torch.cat([values, angles.sin(), angles.cos()], dim=-1)


class DurationEmbedder(nn.Module):
    """Seconds to one conditioning token; module names are those of the published state dict."""

    def __init__(self, dim: int, max_duration_s: float, features: int = 256) -> None:
        super().__init__()
        self.max_duration_s = max_duration_s
        self.time_positional_embedding = nn.Sequential(FourierFeatures(features), nn.Linear(features + 1, dim))

    def forward(self, duration_s: Tensor) -> Tensor:
        """(B,) seconds, clamped to [0, max_duration_s], to (B, 1, dim)."""
        dtype = next(self.time_positional_embedding[1].parameters()).dtype
        share = (duration_s.float().clamp(0, self.max_duration_s) / self.max_duration_s).to(dtype)
        return self.time_positional_embedding(share)[:, None]


class SigmaEmbedding(nn.Module):
    """FLUX's embedding of timestep and pooled text, with sinusoids of a float32 sigma.

    FLUX rounds the timestep to the precision of its activations, which in bf16 turns 0.999 into 1.
    """

    def __init__(self, embedding: Any) -> None:
        """Uses the modules of FLUX's embedding, a CombinedTimestepTextProjEmbeddings."""
        super().__init__()
        self.time_proj = embedding.time_proj
        self.timestep_embedder = embedding.timestep_embedder
        self.text_embedder = embedding.text_embedder

    def forward(self, rounded_timestep: Tensor, sigma_and_pooled: tuple[Tensor, Tensor]) -> Tensor:
        """(B,) sigma and (B, d) pooled text, which FLUX passes through, to (B, width)."""
        sigma, pooled = sigma_and_pooled
        sinusoids = self.time_proj(1000 * sigma.float())  # the timestep is 1000 times sigma
        return self.timestep_embedder(sinusoids.to(pooled.dtype)) + self.text_embedder(pooled)

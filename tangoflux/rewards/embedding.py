"""Scores from embeddings: the cosine similarity of a waveform and its prompt, for any backend."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchaudio.functional as AF
from numpy.typing import NDArray
from torch import Tensor

BATCH = 16
"""Windows per call of the model."""

SHORTEST_LAST_WINDOW = 0.1
"""As a share of a window: a shorter rest would be repeated to fill its window, which turns it into a buzz."""


class EmbeddingReward(ABC):
    """The common part of all CLAP backends.

    Channels are averaged and audio is resampled to the model's rate. Of audio longer than the model's window (10 s for
    the published models) the first window is scored; or, with ``windows``, all consecutive windows, whose unit
    embeddings are averaged. The last window is padded like any short audio, and skipped below a tenth of a window.
    Nothing is random, so a score does not depend on what else is scored.
    """

    def __init__(self, name: str, checkpoint: str, sample_rate_hz: int, window: int, windows: bool) -> None:
        """Sets the model's properties; ``window`` is in samples."""
        self.name = name
        self.checkpoint = checkpoint
        self._rate = sample_rate_hz
        self._window = window
        self._windows = windows

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        """Cosine similarities in [-1, 1], (n,); see ``Reward``."""
        scores = np.full(len(prompts), np.nan)
        usable = [row for row, waveform in enumerate(waveforms) if is_usable(waveform)]
        if usable:
            audio = self.embed_audio([waveforms[row] for row in usable], sample_rate_hz)
            distinct = sorted({prompts[row] for row in usable})
            text = self.embed_text(distinct)[[distinct.index(prompts[row]) for row in usable]]
            scores[usable] = (audio * text).sum(dim=1).double().numpy()
        return scores

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, d); texts are cut to the model's maximum length."""
        return _unit(self._encode_text([text.encode("utf-8", "replace").decode("utf-8") for text in texts]))

    def embed_audio(self, waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int) -> Tensor:
        """Unit vectors (n, d)."""
        waves = [self._windows_of(waveform, sample_rate_hz) for waveform in waveforms]
        windows = [window for each in waves for window in each]
        batches = [windows[start : start + BATCH] for start in range(0, len(windows), BATCH)]
        vectors = _unit(torch.cat([self._encode_audio(batch) for batch in batches]))
        return _unit(torch.stack([part.mean(dim=0) for part in vectors.split([len(each) for each in waves])]))

    def _windows_of(self, waveform: NDArray[np.float32], sample_rate_hz: int) -> list[Tensor]:
        """The windows to score, at the model's rate; each (samples,), the last one may be short."""
        mono = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32)).mean(dim=0)
        if sample_rate_hz != self._rate:
            mono = AF.resample(mono, sample_rate_hz, self._rate)
        first, *more = mono.split(self._window)
        if not self._windows:
            return [first]
        return [first, *(window for window in more if len(window) >= SHORTEST_LAST_WINDOW * self._window)]

    @abstractmethod
    def _encode_text(self, texts: list[str]) -> Tensor:
        """Vectors (n, d) of well-formed texts."""

    @abstractmethod
    def _encode_audio(self, windows: list[Tensor]) -> Tensor:
        """Vectors (n, d) of mono windows (samples,), not empty and not longer than the model's."""


def file_sha256(file: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_usable(waveform: NDArray[np.float32]) -> bool:
    """Whether a waveform can be scored: it has samples, and all are finite."""
    return waveform.size > 0 and bool(np.isfinite(waveform).all())


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.float().cpu(), dim=-1)

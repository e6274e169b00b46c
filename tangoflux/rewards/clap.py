"""CLAP as a reward: the cosine similarity of a waveform's and its prompt's embeddings (transformers' ClapModel)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchaudio.functional as AF
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, ClapConfig, ClapModel

from tangoflux.checkpoint import load_weights, read_json
from tangoflux.errors import CheckpointError
from tangoflux.log_mel import LogMel, LogMelConfig

_BATCH = 16


class ClapReward:
    """A directory in transformers' layout: config, weights, feature extractor and tokenizer.

    Channels are averaged, audio is resampled to the model's rate, of longer audio the first ``max_length_s`` seconds
    are heard, and nothing is random, so a score does not depend on what else is scored.
    """

    def __init__(self, directory: Path, name: str) -> None:
        """Loads the model.

        Raises:
            CheckpointError: a file is missing, truncated or of another model.
        """
        self.name = name
        weights = directory / "model.safetensors"
        config = ClapConfig.from_dict(read_json(directory / "config.json"))
        self._model = ClapModel(config)
        load_weights(self._model, weights, optional=_buffers(self._model))
        self._model.eval().requires_grad_(False)
        self._log_mel = LogMel(_log_mel_config(directory / "preprocessor_config.json"))
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(directory))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{directory} holds no tokenizer: {error}") from error
        self.checkpoint = file_sha256(weights)[:16]

    def to(self, device: torch.device | str) -> ClapReward:
        """Moves the model and returns self."""
        self._model.to(device)
        self._log_mel.to(device)
        return self

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        """Cosine similarities in [-1, 1], (n,); see ``Reward``."""
        audio = self.embed_audio(waveforms, sample_rate_hz)
        distinct = sorted(set(prompts))
        text = self.embed_text(distinct)[[distinct.index(prompt) for prompt in prompts]]
        scores = (audio * text).sum(dim=1).double().cpu().numpy()
        finite = np.array([bool(np.isfinite(waveform).all()) and waveform.size > 0 for waveform in waveforms])
        return np.where(finite, scores, np.nan)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, d); texts are cut to the tokenizer's maximum."""
        texts = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        batch = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(self._model.device)
        return _unit(
            self._model.get_text_features(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).pooler_output
        )

    def embed_audio(self, waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int) -> Tensor:
        """Unit vectors (n, d)."""
        prepared = [self._prepare(waveform, sample_rate_hz) for waveform in waveforms]
        parts: list[Tensor] = []
        for start in range(0, len(prepared), _BATCH):
            features = self._log_mel(torch.stack(prepared[start : start + _BATCH]).to(self._model.device))
            parts.append(self._model.get_audio_features(input_features=features[:, None]).pooler_output)
        return _unit(torch.cat(parts))

    def _prepare(self, waveform: NDArray[np.float32], sample_rate_hz: int) -> Tensor:
        mono = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32)).mean(dim=0)
        rate = self._log_mel.config.sample_rate_hz
        if sample_rate_hz != rate and mono.numel():
            mono = AF.resample(mono, sample_rate_hz, rate)
        return self._log_mel.fit(mono)


def file_sha256(file: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def _buffers(model: ClapModel) -> list[str]:
    """Constants such as index tables, which a saved model may or may not hold."""
    return [name for name, _ in model.named_buffers() if "running" not in name]


def _log_mel_config(file: Path) -> LogMelConfig:
    values = read_json(file)
    if values.get("truncation") == "fusion":
        raise CheckpointError(f"{file}: truncation 'fusion' is not supported; use a checkpoint with 'rand_trunc'")
    rate = values["sampling_rate"]
    return LogMelConfig(
        sample_rate_hz=rate,
        n_fft=values["fft_window_size"],
        hop=values["hop_length"],
        n_mels=values["feature_size"],
        min_hz=values["frequency_min"],
        max_hz=values["frequency_max"],
        max_samples=values["max_length_s"] * rate,
        padding=values["padding"],
    )

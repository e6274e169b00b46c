"""CLAP as a reward: the cosine similarity of a waveform's and its prompt's embeddings (transformers' ClapModel)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
import torchaudio.functional as AF
from huggingface_hub.errors import StrictDataclassError
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, ClapConfig

from tangoflux.checkpoint import load_weights, read_json
from tangoflux.errors import CheckpointError
from tangoflux.log_mel import LogMel, LogMelConfig, Padding

if TYPE_CHECKING:
    from transformers import ClapModel

BATCH = 16
"""Waveforms that go through the model at once."""

TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
"""One of them must be there: without any, transformers makes an empty tokenizer, to which all texts are alike."""

LOG_MEL_KEYS = {
    "sample_rate_hz": "sampling_rate",
    "n_fft": "fft_window_size",
    "hop": "hop_length",
    "n_mels": "feature_size",
    "min_hz": "frequency_min",
    "max_hz": "frequency_max",
    "padding": "padding",
}
"""Our names of what stands in ``preprocessor_config.json``."""


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
        self._log_mel = LogMel(_log_mel_config(directory / "preprocessor_config.json"))
        self._model: Any = _empty_model(directory / "config.json")
        load_weights(self._model, weights, optional=_buffers(self._model))
        self._model.eval().requires_grad_(False)
        self._tokenizer: Any = _load_tokenizer(directory)
        self._max_tokens = _max_tokens(self._tokenizer, self._model.config.text_config)
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
        if not prompts:
            return np.zeros(0)
        audio = self.embed_audio(waveforms, sample_rate_hz)
        distinct = sorted(set(prompts))
        text = self.embed_text(distinct)[[distinct.index(prompt) for prompt in prompts]]
        scores = (audio * text).sum(dim=1).tolist()
        return np.array([s if is_usable(w) else np.nan for s, w in zip(scores, waveforms, strict=True)], np.float64)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, d); texts are cut to what the model can read."""
        texts = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        batch = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        ).to(self._model.device)
        features = self._model.get_text_features(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return _unit(features.pooler_output)

    def embed_audio(self, waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int) -> Tensor:
        """Unit vectors (n, d)."""
        prepared = [self._prepare(waveform, sample_rate_hz) for waveform in waveforms]
        parts: list[Tensor] = []
        for start in range(0, len(prepared), BATCH):
            features = self._log_mel(torch.stack(prepared[start : start + BATCH]).to(self._model.device))
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


def is_usable(waveform: NDArray[np.float32]) -> bool:
    """Whether a waveform can have a score: it has samples, and all of them are finite."""
    return waveform.size > 0 and bool(np.isfinite(waveform).all())


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def _empty_model(config_file: Path) -> ClapModel:
    # Takes seconds to import, for which the driver of a job need not wait.
    from transformers import ClapModel

    values = read_json(config_file)
    try:
        return ClapModel(ClapConfig.from_dict(values))
    except (StrictDataclassError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{config_file} is not the config of a ClapModel: {error}") from error


def _load_tokenizer(directory: Path) -> Any:
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise CheckpointError(f"{directory} holds no tokenizer: {' or '.join(TOKENIZER_FILES)} is missing")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise CheckpointError(f"the tokenizer in {directory} cannot be read: {error}") from error
    return tokenizer


def _max_tokens(tokenizer: Any, text_config: Any) -> int:
    """A tokenizer may know no maximum; positions are counted from the one after the padding's number."""
    positions: int = text_config.max_position_embeddings - text_config.pad_token_id - 1
    return min(tokenizer.model_max_length, positions)


def _buffers(model: ClapModel) -> list[str]:
    """Constants such as index tables, which a saved model may or may not hold."""
    return [name for name, _ in model.named_buffers() if "running" not in name]


def _log_mel_config(file: Path) -> LogMelConfig:
    values = read_json(file)
    if values.get("truncation") == "fusion":
        raise CheckpointError(f"{file}: truncation 'fusion' is not supported; use a checkpoint with 'rand_trunc'")
    numbers = ["max_length_s", *(key for key in LOG_MEL_KEYS.values() if key != "padding")]
    wrong = [key for key in numbers if not isinstance(values.get(key), int | float)]
    if values.get("padding") not in get_args(Padding):
        wrong.append("padding")
    if wrong:
        raise CheckpointError(f"{file} is not that of a ClapFeatureExtractor: it has no usable {', '.join(wrong)}")
    samples = round(values["max_length_s"] * values["sampling_rate"])
    return LogMelConfig(max_samples=samples, **{ours: values[theirs] for ours, theirs in LOG_MEL_KEYS.items()})

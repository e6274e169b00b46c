"""CLAP as a reward, run by transformers' ClapModel."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tangoflux.model.log_mel import with_time_code
from tangoflux.rewards.clap_parts import read_directory, read_laion_file
from tangoflux.rewards.embedding import EmbeddingReward, file_sha256

INT16_MAX = 32767


class ClapReward(EmbeddingReward):
    """A directory in transformers' layout, or a ``.pt`` checkpoint of laion_clap.

    A directory has config, weights, feature extractor and tokenizer. A ``.pt`` file needs the tokenizer of
    ``roberta-base`` next to it or in ``tokenizer/``, or in the local Hugging Face cache.
    """

    def __init__(self, path: Path, name: str, windows: bool = False) -> None:
        """Loads the model.

        Args:
            windows: whether all windows of long audio are scored instead of the first.

        Raises:
            CheckpointError: a file is missing, truncated or of another model.
        """
        self._parts = parts = read_laion_file(path) if path.suffix == ".pt" else read_directory(path)
        parts.model.eval().requires_grad_(False)
        mel = parts.log_mel.config
        super().__init__(name, file_sha256(parts.weights)[:16], mel.sample_rate_hz, mel.max_samples, windows)

    def to(self, device: torch.device | str) -> ClapReward:
        """Moves the model and returns self."""
        self._parts.model.to(device)
        self._parts.log_mel.to(device)
        return self

    def _encode_text(self, texts: list[str]) -> Tensor:
        parts = self._parts
        batch = parts.tokenizer(
            texts, padding=True, truncation=True, max_length=parts.max_tokens, return_tensors="pt"
        ).to(parts.model.device)
        features = parts.model.get_text_features(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return features.pooler_output

    def _encode_audio(self, windows: list[Tensor]) -> Tensor:
        parts = self._parts
        waveforms = torch.stack([parts.log_mel.fit(window) for window in windows]).to(parts.model.device)
        frames = parts.log_mel(_quantised(waveforms) if parts.quantise else waveforms)
        features = with_time_code(frames, parts.time_code)[:, None]
        if not parts.fusion:
            return parts.model.get_audio_features(input_features=features).pooler_output
        # The extractor would mark a random short waveform of the batch as longer.
        short = torch.zeros(len(windows), 1, dtype=torch.bool, device=features.device)
        features = features.expand(-1, 4, -1, -1)
        return parts.model.get_audio_features(input_features=features, is_longer=short).pooler_output


def _quantised(waveforms: Tensor) -> Tensor:
    """As laion_clap does it: to 16-bit integers, rounded towards zero."""
    return (waveforms.clamp(-1.0, 1.0) * INT16_MAX).trunc() / INT16_MAX

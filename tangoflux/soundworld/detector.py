"""The event detector: which events are heard in a waveform, how often, and in which order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torchaudio.functional as AF
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tangoflux.log_mel import LogMel, LogMelConfig
from tangoflux.soundworld.scenes import MAX_EVENTS, SceneContent
from tangoflux.soundworld.slots import NO_EVENT, SlotLogits, read_slots

_RANGE_DB = 60.0  # what is further below the loudest band counts as silence
_SILENCE_DB = -60.0  # a clip whose loudest band is below this is silent
_BATCH = 32


@dataclass(frozen=True)
class DetectorConfig:
    """The detector's sizes."""

    channels: int = 24
    width: int = 128
    layers: int = 3
    heads: int = 4


class EventDetector(nn.Module):
    """Log-mel frames, a small convolution stack and a transformer with one query for each slot and one for overlap."""

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DetectorConfig()
        self.log_mel = LogMel(LogMelConfig())
        channels, width = config.channels, config.width
        self.stem = nn.Sequential(
            nn.Conv2d(1, channels, 5, stride=2, padding=2),
            nn.BatchNorm2d(channels),
            nn.GELU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.BatchNorm2d(2 * channels),
            nn.GELU(),
            nn.Conv2d(2 * channels, 2 * channels, 3, stride=(1, 2), padding=1),
            nn.BatchNorm2d(2 * channels),
            nn.GELU(),
        )
        mel = self.log_mel.config
        self.project = nn.Linear(2 * channels * (mel.n_mels // 8), width)
        positions = mel.max_samples // mel.hop // 4 + 1
        self.position = nn.Parameter(0.02 * torch.randn(1, positions, width))
        self.queries = nn.Parameter(0.02 * torch.randn(1, MAX_EVENTS + 1, width))
        layer = nn.TransformerEncoderLayer(
            width, config.heads, 2 * width, dropout=0.05, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.kinds = nn.Linear(width, NO_EVENT + 1)
        self.counts = nn.Linear(width, 3)
        self.overlap = nn.Linear(width, 1)

    def forward(self, log_mel: Tensor) -> SlotLogits:
        """Logits from log-mel frames (B, 251, 64) in dB; the loudness of the clip makes no difference."""
        loudest = log_mel.amax((1, 2), keepdim=True).clamp(min=_SILENCE_DB)
        image = ((log_mel - loudest) / _RANGE_DB).clamp(min=-1.0) + 0.5
        frames = self.stem(image[:, None]).permute(0, 2, 1, 3).flatten(2)
        tokens = self.project(frames) + self.position
        queries = self.queries.expand(len(tokens), -1, -1)
        read = self.norm(self.transformer(torch.cat((queries, tokens), dim=1))[:, : MAX_EVENTS + 1])
        slots = read[:, :MAX_EVENTS]
        return SlotLogits(self.kinds(slots), self.counts(slots), self.overlap(read[:, MAX_EVENTS])[:, 0])

    @torch.no_grad()
    def detect(self, waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int) -> list[SceneContent]:
        """What is heard in each waveform.

        Args:
            waveforms: (samples,) or (channels, samples) each; channels are averaged, only the first 4 s are heard.
            sample_rate_hz: of all of them.

        Returns:
            A content for each waveform; without events where nothing is heard.
        """
        prepared = [self._prepare(waveform, sample_rate_hz) for waveform in waveforms]
        contents: list[SceneContent] = []
        for start in range(0, len(prepared), _BATCH):
            contents += read_slots(self(self.log_mel(torch.stack(prepared[start : start + _BATCH]))))
        return contents

    def _prepare(self, waveform: NDArray[np.float32], sample_rate_hz: int) -> Tensor:
        mono = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
        if mono.ndim == 2:
            mono = mono.mean(0)
        if sample_rate_hz != self.log_mel.config.sample_rate_hz and mono.numel():
            mono = AF.resample(mono, sample_rate_hz, self.log_mel.config.sample_rate_hz)
        return self.log_mel.fit(mono)

    def save(self, directory: Path) -> None:
        """Write `config.json` and the weights in half precision to a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        tensors = {name: value.half().contiguous() for name, value in self.state_dict().items() if value.ndim}
        save_file(tensors, directory / "model.safetensors")

    @classmethod
    def load(cls, directory: Path) -> EventDetector:
        """A detector that `save` wrote, in float32 and evaluation mode."""
        detector = cls(DetectorConfig(**json.loads((directory / "config.json").read_text())))
        tensors = {name: value.float() for name, value in load_file(directory / "model.safetensors").items()}
        # The only scalars are the counters of the batch norms, which nothing reads after the training.
        detector.load_state_dict(tensors, strict=False)
        return detector.eval()

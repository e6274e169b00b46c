"""The event detector: the events in a waveform, their counts and their order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tangoflux.errors import CheckpointError
from tangoflux.model.checkpoint import load_weights, read_json, write_weights
from tangoflux.model.log_mel import LogMel, LogMelConfig
from tangoflux.soundworld.activity import read_activity
from tangoflux.soundworld.events import KINDS
from tangoflux.soundworld.scenes import SceneContent

_RANGE_DB = 60.0  # anything further below the loudest band counts as silence
_SILENCE_DB = -60.0  # a clip whose loudest band is below this is silent
_BATCH = 32


@dataclass(frozen=True)
class DetectorConfig:
    """The detector's sizes, with a dilation per block."""

    channels: int = 16
    width: int = 128
    dilations: tuple[int, ...] = (1, 2, 1, 2)


class _Block(nn.Module):
    """A residual block over time: a depthwise convolution, then a perceptron for each frame."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, 7, padding=3 * dilation, dilation=dilation, groups=width)
        self.norm = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, frames: Tensor) -> Tensor:
        mixed = self.mix(frames.transpose(1, 2)).transpose(1, 2)
        return frames + self.perceptron(self.norm(mixed))


class EventDetector(nn.Module):
    """Log-mel frames to the activity of every kind over time, by convolutions with a context of just over a second.

    It has no notion of scenes, so it prefers no combination, order or count; a rule derives the scene from the
    activity.
    """

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DetectorConfig()
        self.log_mel = LogMel(LogMelConfig())
        channels, width = config.channels, config.width
        self.stem = nn.Sequential(
            nn.Conv2d(1, channels, 5, stride=2, padding=2),
            nn.BatchNorm2d(channels),
            nn.GELU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=(1, 2), padding=1),
            nn.BatchNorm2d(2 * channels),
            nn.GELU(),
            nn.Conv2d(2 * channels, 3 * channels, 3, stride=(1, 2), padding=1),
            nn.BatchNorm2d(3 * channels),
            nn.GELU(),
        )
        self.project = nn.Linear(3 * channels * (self.log_mel.config.n_mels // 8), width)
        self.blocks = nn.Sequential(*(_Block(width, dilation) for dilation in config.dilations))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(KINDS)))

    def forward(self, log_mel: Tensor) -> Tensor:
        """Logits (B, 126, kinds) from log-mel frames (B, 251, 64) in dB; the clip's loudness has no effect."""
        loudest = log_mel.amax((1, 2), keepdim=True).clamp(min=_SILENCE_DB)
        image = ((log_mel - loudest) / _RANGE_DB).clamp(min=-1.0) + 0.5
        frames = self.stem(image[:, None]).permute(0, 2, 1, 3).flatten(2)
        return self.head(self.blocks(self.project(frames)))

    def read(self, log_mel: Tensor) -> list[SceneContent]:
        """The contents of log-mel frames (B, 251, 64)."""
        return [read_activity(row) for row in self(log_mel).float().sigmoid().numpy()]

    def detect(self, waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int) -> list[SceneContent]:
        """The content of each waveform; it has no events if nothing is detected. See ``activity``."""
        return [read_activity(row) for row in self.activity(waveforms, sample_rate_hz)]

    @torch.no_grad()
    def activity(self, waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int) -> list[NDArray[np.float32]]:
        """The probability (126, kinds) that each kind is audible in each frame, of each waveform.

        Args:
            waveforms: (samples,) or (channels, samples) each; channels are averaged, only the first 4 s are used.
            sample_rate_hz: of all of them.
        """
        prepared = [self.log_mel.prepare(waveform, sample_rate_hz) for waveform in waveforms]
        rows: list[NDArray[np.float32]] = []
        for start in range(0, len(prepared), _BATCH):
            logits = self(self.log_mel(torch.stack(prepared[start : start + _BATCH])))
            rows += list(logits.float().sigmoid().numpy())
        return rows

    def save(self, directory: Path) -> None:
        """Write `config.json` and the weights in half precision to a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        tensors = {name: value.half().contiguous() for name, value in self.state_dict().items() if value.ndim}
        write_weights(tensors, directory / "model.safetensors")

    @classmethod
    def load(cls, directory: Path) -> EventDetector:
        """A detector that `save` wrote, in float32 and evaluation mode.

        Raises:
            CheckpointError: a file is missing, truncated or of another model.
        """
        file = directory / "config.json"
        config = read_json(file)
        try:
            config["dilations"] = tuple(config["dilations"])
            detector = cls(DetectorConfig(**config))
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{file} is not the config of an event detector: {error}") from error
        # The only scalars are the counters of the batch norms, which nothing reads after the training.
        scalars = [name for name, value in detector.state_dict().items() if not value.ndim]
        load_weights(detector, directory / "model.safetensors", optional=scalars)
        return detector.eval()

"""The frozen codec: AutoencoderOobleck on waveforms (the published model), or behind a mel front (the miniature).

The rest of the system uses ``encode``, ``decode``, frame rate and channels, whichever of the two it is.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tangoflux.errors import CheckpointError
from tangoflux.model.adapter_files import base_directory
from tangoflux.model.checkpoint import load_weights, read_json, write_weights
from tangoflux.model.mel_front import MelFront, MelFrontConfig

DECODED_AT_ONCE = {"cpu": 2**22, "cuda": 2**28}
"""Most numbers in the decoder's last block when several rows are decoded together. On a GPU one row of 30 s at the
published size, which needs 3 GB. On a CPU what fits its caches: decoding five rows of 14 MB one by one was 2.5 times as
fast."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """``vae_config.json``. The defaults are Stable Audio Open's, which the published weights use."""

    encoder_hidden_size: int = 128
    downsampling_ratios: tuple[int, ...] = (2, 4, 4, 8, 8)
    channel_multiples: tuple[int, ...] = (1, 2, 4, 8, 16)
    decoder_channels: int = 128
    decoder_input_channels: int = 64
    audio_channels: int = 2
    sampling_rate: int = 44100
    latent_scale: float = 1.0
    # Standard deviation of the raw latents: `encode` divides by it, so that the flow sees unit variance.
    front: MelFrontConfig | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AutoencoderConfig:
        """Builds the config from ``vae_config.json``'s values; unused keys are ignored.

        Raises:
            CheckpointError: a value has the wrong type.
        """
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in values.items() if key in known}
        try:
            return cls._converted(values)
        except TypeError as error:
            raise CheckpointError(f"vae_config.json: {error}") from None

    @classmethod
    def _converted(cls, values: dict[str, Any]) -> AutoencoderConfig:
        front = values.get("front")
        lists = {key: tuple(values[key]) for key in ("downsampling_ratios", "channel_multiples") if key in values}
        converted: dict[str, Any] = {**values, **lists, "front": MelFrontConfig(**front) if front else None}
        return cls(**converted)

    @classmethod
    def read(cls, directory: Path) -> AutoencoderConfig:
        """The config of a published-layout directory, without its weights.

        Raises:
            CheckpointError: the file exists, but cannot be read.
        """
        file = directory / "vae_config.json"
        return cls.from_dict(read_json(file)) if file.exists() else cls()

    @property
    def hop(self) -> int:
        """Waveform samples per frame of latents."""
        return math.prod(self.downsampling_ratios) * (self.front.hop if self.front else 1)

    def frames_for(self, duration_s: float) -> int:
        """Frames of latents that cover ``duration_s`` seconds: ceil(duration * sample rate / hop)."""
        return math.ceil(round(duration_s * self.sampling_rate) / self.hop)

    def frames_heard(self, duration_s: float) -> int | None:
        """Frames that affect the first ``duration_s`` seconds of a decoded waveform; None: all (with a front)."""
        if self.front:
            return None
        context, rate = 3.0, 1  # reach of the decoder's kernels: 7 before and after; in a block 7 at dilations 1, 3, 9
        for ratio in reversed(self.downsampling_ratios):
            context += 1 / rate
            rate *= ratio
            context += 3 * (1 + 3 + 9) / rate
        return self.frames_for(duration_s) + math.ceil(context + 3 / rate)

    def decoded_numbers(self, frames: int) -> int:
        """Numbers per row in the decoder's last block, its largest."""
        return frames * math.prod(self.downsampling_ratios) * self.decoder_channels

    def rows_at_once(self, frames: int, device: str) -> int:
        """Number of rows of latents that are decoded together on ``cpu`` or ``cuda``."""
        return max(1, DECODED_AT_ONCE[device] // self.decoded_numbers(frames))


class Autoencoder(nn.Module):
    """Waveforms to latents and back; every row is coded independently of its batch."""

    def __init__(self, config: AutoencoderConfig) -> None:
        # Imported here for the same reason as in policy.py.
        from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck

        super().__init__()
        self.config = config
        self.front = MelFront(config.front, config.sampling_rate) if config.front else None
        with warnings.catch_warnings():
            # diffusers uses torch's older weight_norm, after which the published tensors are named.
            warnings.simplefilter("ignore", FutureWarning)
            self.oobleck = AutoencoderOobleck(
                encoder_hidden_size=config.encoder_hidden_size,
                downsampling_ratios=list(config.downsampling_ratios),
                channel_multiples=list(config.channel_multiples),
                decoder_channels=config.decoder_channels,
                decoder_input_channels=config.decoder_input_channels,
                audio_channels=config.front.n_mels if config.front else config.audio_channels,
                sampling_rate=config.sampling_rate,
            )

    @property
    def sample_rate_hz(self) -> int:
        """Sample rate of the waveforms."""
        return self.config.sampling_rate

    @property
    def hop(self) -> int:
        """Waveform samples per frame of latents."""
        return self.config.hop

    @property
    def audio_channels(self) -> int:
        """Channels of the waveforms: 1 mono, 2 stereo."""
        return self.config.audio_channels

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.config.decoder_input_channels

    def frames_for(self, duration_s: float) -> int:
        """Frames of latents that cover ``duration_s`` seconds, see ``AutoencoderConfig``."""
        return self.config.frames_for(duration_s)

    def posterior(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of ``waveform``.

        Args:
            waveform: (B, audio_channels, samples) in [-1, 1]; padded with silence to full frames.

        Returns:
            two tensors (B, frames, latent_channels).
        """
        short = -waveform.shape[-1] % self.hop
        waveform = nn.functional.pad(waveform, (0, short))
        signal = self.front.analyse(waveform.mean(dim=1)) if self.front else waveform
        posterior = self.oobleck.encode(signal, return_dict=False)[0]
        scale = self.config.latent_scale
        return posterior.mean.transpose(1, 2) / scale, posterior.std.transpose(1, 2) / scale

    def encode(self, waveform: Tensor) -> Tensor:
        """The posterior's mean: waveform (B, audio_channels, samples) to latents (B, frames, latent_channels)."""
        return self.posterior(waveform)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, frames, latent_channels) to waveforms (B, audio_channels, frames * hop)."""
        raw = (latents * self.config.latent_scale).transpose(1, 2)
        # diffusers declares a FloatTensor, which type checkers accept no tensor for.
        signal = self.oobleck.decode(raw, return_dict=False)[0]  # pyright: ignore[reportArgumentType]
        if self.front is None:
            return signal
        mono = self.front.synthesise(signal)
        return mono[:, None].expand(-1, self.audio_channels, -1)

    @torch.no_grad()
    def posterior_rows(self, waveforms: Sequence[Tensor]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """The posterior of rows of any length; rows of equal length are encoded together.

        Args:
            waveforms: tensors (audio_channels, samples) in [-1, 1].

        Returns:
            mean and standard deviation of each, float32 (frames, latent_channels).
        """
        posteriors: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        device = next(self.parameters()).device
        for rows in _by_length([row.shape[1] for row in waveforms]):
            batch = torch.stack([waveforms[index].float() for index in rows]).to(device)
            mean, scale = (part.cpu().numpy() for part in self.posterior(batch))
            posteriors.update({index: (mean[position], scale[position]) for position, index in enumerate(rows)})
        return [posteriors[index] for index in range(len(waveforms))]

    @torch.no_grad()
    def decode_rows(self, latents: Sequence[Tensor], durations_s: Sequence[float]) -> list[NDArray[np.float32]]:
        """Decodes rows of any length; rows of equal length are decoded together, at most ``rows_at_once``.

        Args:
            latents: tensors (frames, channels).
            durations_s: seconds to keep of each row.

        Returns:
            float32 arrays (audio_channels, samples), clipped to [-1, 1].
        """
        waveforms: dict[int, NDArray[np.float32]] = {}
        device = next(self.parameters()).device
        # Frames beyond would be cut off afterwards: a sample of 10 s needs a third of 30 s of frames.
        latents = [row[: self.config.frames_heard(seconds)] for row, seconds in zip(latents, durations_s, strict=True)]
        for rows in _by_length([len(row) for row in latents]):
            size = self.config.rows_at_once(len(latents[rows[0]]), device.type)
            for at_once in (rows[start : start + size] for start in range(0, len(rows), size)):
                batch = torch.stack([latents[index].float() for index in at_once]).to(device)
                for index, waveform in zip(at_once, self.decode(batch).clamp(-1, 1).cpu().numpy(), strict=True):
                    waveforms[index] = waveform[:, : round(durations_s[index] * self.sample_rate_hz)].copy()
        return [waveforms[index] for index in range(len(latents))]

    @classmethod
    def load(cls, directory: Path) -> Autoencoder:
        """Reads ``vae.safetensors`` and, where present, ``vae_config.json`` of a published-layout directory.

        Raises:
            CheckpointError: a file is missing, truncated, or its tensors do not fit the config.
        """
        model = cls(AutoencoderConfig.read(directory))
        load_weights(model.oobleck, base_directory(directory) / "vae.safetensors")
        return model.eval().requires_grad_(False)

    def save(self, directory: Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes ``vae.safetensors`` and ``vae_config.json`` into ``directory``."""
        weights = {key: value.to(dtype).contiguous() for key, value in self.oobleck.state_dict().items()}
        write_weights(weights, directory / "vae.safetensors")
        (directory / "vae_config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")


def _by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices grouped by equal length, shortest first."""
    return [[index for index, other in enumerate(lengths) if other == length] for length in sorted(set(lengths))]

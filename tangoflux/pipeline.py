"""The complete model: the policy and its codec, from prompts to audio."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tangoflux.errors import ConfigError
from tangoflux.model.autoencoder import Autoencoder
from tangoflux.model.checkpoint import write_weights
from tangoflux.model.layout import find_directory, load_policy, num_frames, policy_weights
from tangoflux.model.policy import Policy
from tangoflux.sampling import SampleRequest, sample_latents
from tangoflux.sampling_params import MIN_DURATION_S, Precision, SamplingParams, uses_bf16
from tangoflux.seeding import derive_seed


class TangoFlux:
    """The policy with its autoencoder; training and sampling use ``policy`` and ``autoencoder`` directly."""

    def __init__(self, policy: Policy, autoencoder: Autoencoder) -> None:
        self.policy = policy
        self.autoencoder = autoencoder

    @property
    def sample_rate_hz(self) -> int:
        """Sample rate of the waveforms."""
        return self.autoencoder.sample_rate_hz

    def num_frames(self, duration_s: float) -> int:
        """Frames of latents that are sampled, stored and trained for a prompt of ``duration_s`` seconds."""
        return num_frames(self.policy.config, self.autoencoder.config, duration_s)

    def to(self, device: torch.device | str) -> TangoFlux:
        """Moves both parts and returns self."""
        self.policy.to(device)
        self.autoencoder.to(device)
        return self

    def request(self, prompt: str, duration_s: float, seeds: Sequence[int]) -> SampleRequest:
        """A request for ``sample_latents`` with this model's number of frames.

        Raises:
            ConfigError: the duration is not from ``MIN_DURATION_S`` to the policy's ``max_duration``.
        """
        longest_s = self.policy.config.max_duration
        if not MIN_DURATION_S <= duration_s <= longest_s:
            raise ConfigError(f"duration_s {duration_s} is not from {MIN_DURATION_S:g} to {longest_s} seconds")
        return SampleRequest(prompt, duration_s, self.num_frames(duration_s), tuple(seeds))

    def decode(self, latents: Sequence[Tensor], durations_s: Sequence[float]) -> list[NDArray[np.float32]]:
        """Waveforms of latents, see ``Autoencoder.decode_rows``."""
        return self.autoencoder.decode_rows(latents, durations_s)

    def generate(
        self,
        prompts: str | Sequence[str],
        duration_s: float | Sequence[float] = 10.0,
        *,
        num_samples: int = 1,
        seed: int = 0,
        num_steps: int = SamplingParams.num_steps,
        guidance_scale: float = SamplingParams.guidance_scale,
        negative_prompt: str = SamplingParams.negative_prompt,
        precision: Precision | None = None,
        on_step: Callable[[float], None] = lambda share: None,
    ) -> list[list[NDArray[np.float32]]]:
        """Generates audio: for each prompt ``num_samples`` waveforms (audio_channels, samples), float32 in [-1, 1].

        The noise of sample k of a prompt depends on (seed, prompt, k) only.

        >>> from tangoflux import TangoFlux
        >>> model = TangoFlux.from_pretrained("miniature")
        >>> groups = model.generate(["a dog barks", "a bell rings twice"], 2.0, num_samples=3, seed=7, num_steps=4)
        >>> [len(group) for group in groups], groups[0][0].shape, model.sample_rate_hz
        ([3, 3], (1, 32000), 16000)

        Args:
            duration_s: seconds per prompt, or for all, from ``MIN_DURATION_S`` to the policy's ``max_duration``.
            num_steps: Euler steps.
            guidance_scale: classifier-free guidance; 1 or less is off.
            negative_prompt: what the audio should not sound like; needs guidance.
            precision: the policy's; None is fp32 on a CPU, and bf16 on a GPU that supports it.
            on_step: see ``sample_latents``.

        Raises:
            ConfigError: a duration, the number of steps or samples, or the guidance scale is out of range.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        same = isinstance(duration_s, int | float | np.number)
        durations = [float(duration_s)] * len(texts) if same else list(duration_s)
        if num_samples < 1:
            raise ConfigError(f"num_samples {num_samples}: give 1 or more")
        if len(durations) != len(texts):
            raise ConfigError(f"{len(durations)} durations for {len(texts)} prompts: give one for each, or one for all")
        params = SamplingParams(num_steps, guidance_scale, negative_prompt)
        requests = [
            self.request(text, duration, [derive_seed(seed, "generate", text, k) for k in range(num_samples)])
            for text, duration in zip(texts, durations, strict=True)
        ]
        device = self.policy.device.type
        bf16 = uses_bf16(precision or ("fp32" if device == "cpu" else "auto"), device)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            groups = sample_latents(self.policy, requests, params, on_step)
        return [
            self.decode(list(group), [request.duration_s] * num_samples)
            for group, request in zip(groups, requests, strict=True)
        ]

    @classmethod
    def from_pretrained(cls, name: str | Path) -> TangoFlux:
        """Loads a directory in the published layout, an embedded name ("miniature"), or a name on the hub.

        Raises:
            CheckpointError: there is no such model, or its files are missing, truncated or of another model.
        """
        directory = find_directory(name)
        return cls(load_policy(directory), Autoencoder.load(directory))

    def save_pretrained(self, directory: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes the published layout; ``directory`` is created if missing."""
        directory = Path(directory)
        (directory / "text_encoder").mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(self.policy.config.to_dict(), indent=2) + "\n")
        write_weights(policy_weights(self.policy, dtype), directory / "tangoflux.safetensors")
        self.policy.text_encoder.config.save_pretrained(directory / "text_encoder")
        self.policy.tokenizer.save_pretrained(directory / "text_encoder")
        self.autoencoder.save(directory, dtype)

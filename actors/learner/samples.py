"""Audio that a pretraining samples on its way, for people to hear how it comes along."""

from __future__ import annotations

import re
from pathlib import Path

import soundfile

from actors.learner.settings import Pretraining
from actors.storage.atomic import atomic_write
from tangoflux.model.autoencoder import Autoencoder
from tangoflux.model.policy import Policy
from tangoflux.pipeline import TangoFlux


class Sampler:
    """Samples the same prompts with the same noise whenever it is called."""

    def __init__(self, plan: Pretraining, policy_dir: Path) -> None:
        self.plan = plan
        self._codec = Autoencoder.load(policy_dir) if plan.prompts else None

    def __call__(self, policy: Policy, step: int) -> list[str]:
        """Writes a FLAC file a prompt; returns their paths, relative to the directory of samples.

        Raises:
            ResourceError: the disk is full or the directory cannot be written.
        """
        if self._codec is None:
            return []
        plan, folder = self.plan, f"step-{step:08d}"
        model = TangoFlux(policy, self._codec.to(policy.device))
        texts, durations = zip(*plan.prompts, strict=True)
        audio = model.generate(
            list(texts), list(durations), num_steps=plan.num_steps, guidance_scale=plan.guidance_scale
        )
        files = [f"{folder}/{index:02d}-{_readable(text)}.flac" for index, text in enumerate(texts)]
        for file, (waveform,) in zip(files, audio, strict=True):
            path = plan.samples / file
            with atomic_write(path) as temporary:
                soundfile.write(temporary, waveform.T, model.sample_rate_hz, format="FLAC", subtype="PCM_16")
        self._codec.to("cpu")
        return files


def _readable(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:60].strip("-") or "unnamed"

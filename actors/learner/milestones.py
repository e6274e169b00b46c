"""What happens at certain steps of a training: checkpoints, and in a pretraining validation and samples."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import soundfile
from torch import Tensor

from actors.learner.checkpoint import Progress, save_checkpoint
from actors.learner.engine import master_weights
from actors.learner.moments import own_moments
from actors.learner.pretraining import FlowMatching
from actors.learner.settings import LearnerJob, PretrainingSettings
from actors.learner.task import TrainingTask
from actors.storage.atomic import atomic_write
from actors.storage.policy_store import local_policy
from tangoflux.model.autoencoder import Autoencoder
from tangoflux.model.policy import Policy
from tangoflux.pipeline import TangoFlux


class Milestones:
    """Validates and samples on rank 0 with the weights that would be stored, and writes checkpoints on all ranks."""

    def __init__(
        self, job: LearnerJob, task: TrainingTask, policy: Policy, average: dict[str, Tensor], rank: int
    ) -> None:
        """Loads what sampling needs.

        Args:
            policy: the one that is trained.
            average: the weights' moving average on rank 0, otherwise or without an average empty.
        """
        self.settings, self.checkpoints = job.settings, job.checkpoints
        self.task, self.policy, self.average, self.rank = task, policy, average, rank
        self._sampler = None
        if isinstance(job.settings, PretrainingSettings) and job.settings.prompts and rank == 0:
            self._sampler = Sampler(job.settings, local_policy(job.policy_dir))

    def reached(self, step: int, steps: int) -> Iterator[dict[str, Any]]:
        """Validates and samples if that is due after ``step`` of ``steps``; yields an event for each."""
        settings = self.settings
        if not isinstance(settings, PretrainingSettings) or self.rank != 0:
            return
        validates, samples = (_due(step, steps, every) for every in (settings.validate_every, settings.sample_every))
        if validates or samples:
            with self._stored_weights():
                yield from self._validate(step) if validates else ()
                yield from self._sample(step) if samples else ()

    def save(self, progress: Progress, steps: int, engine: Any) -> None:
        """Writes a checkpoint if one is due. Every rank calls it.

        Raises:
            ResourceError: the disk is full or the directory cannot be written.
        """
        if not _due(progress.step, steps, self.settings.checkpoint_every):
            return
        moments = own_moments(engine, self.policy, self.settings, self.rank)
        weights = master_weights(self.policy, keep=self.rank == 0)
        save_checkpoint(self.checkpoints, progress, self.rank, moments, weights, self.average)

    def _validate(self, step: int) -> Iterator[dict[str, Any]]:
        assert isinstance(self.task, FlowMatching)
        loss = self.task.validate()
        if loss is not None:
            yield {"event": "validation", "step": step, "loss": loss}

    def _sample(self, step: int) -> Iterator[dict[str, Any]]:
        if self._sampler:
            yield {"event": "samples", "step": step, "files": self._sampler.sample(self.policy, step)}

    @contextmanager
    def _stored_weights(self) -> Generator[None]:
        """Puts the average, if there is one, into the policy until the block ends."""
        parameters = dict(self.policy.named_parameters())
        trained = {name: parameters[name].detach().clone() for name in self.average}
        for name, value in self.average.items():
            parameters[name].data.copy_(value)
        self.policy.eval()
        try:
            yield
        finally:
            self.policy.train()
            for name, value in trained.items():
                parameters[name].data.copy_(value)


class Sampler:
    """Samples the same prompts with the same noise at every call, so that people can hear the progress."""

    def __init__(self, settings: PretrainingSettings, policy_dir: Path) -> None:
        self.settings = settings
        self._codec = Autoencoder.load(policy_dir)

    def sample(self, policy: Policy, step: int) -> list[str]:
        """Writes a FLAC file for each prompt; returns their paths relative to ``samples_dir``.

        Raises:
            ResourceError: the disk is full or the directory cannot be written.
        """
        settings = self.settings
        captions, durations = zip(*settings.prompts, strict=True)
        model = TangoFlux(policy, self._codec.to(policy.device))
        audio = model.generate(list(captions), list(durations), **asdict(settings.sampling))
        self._codec.to("cpu")
        files = [f"step-{step:08d}/{index:02d}-{_file_name(caption)}.flac" for index, caption in enumerate(captions)]
        for file, (waveform,) in zip(files, audio, strict=True):
            with atomic_write(settings.samples_dir / file) as temporary:
                soundfile.write(temporary, waveform.T, model.sample_rate_hz, format="FLAC", subtype="PCM_16")
        return files


def _file_name(caption: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", caption.lower())[:60].strip("-") or "unnamed"


def _due(step: int, steps: int, every: int) -> bool:
    return step == steps or step % every == 0

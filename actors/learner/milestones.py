"""What happens on the way of a training: checkpoints, and validation and samples of a pretraining."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from actors.learner.checkpoint import Progress, save_checkpoint
from actors.learner.engine import master_weights
from actors.learner.moments import own_moments
from actors.learner.pretraining import FlowMatching
from actors.learner.samples import Sampler
from actors.learner.settings import LearnerJob
from actors.learner.task import TrainingTask
from actors.storage.stored_policy import local_policy
from tangoflux.model.policy import Policy


class Milestones:
    """Validates and samples with the weights that would be stored, on rank 0, and writes checkpoints on all ranks."""

    def __init__(
        self, job: LearnerJob, task: TrainingTask, policy: Policy, average: dict[str, Tensor], rank: int
    ) -> None:
        """Takes the policy that is trained, and on rank 0 its average where one is kept."""
        self.plan, self.settings, self.checkpoints = job.pretraining, job.settings, job.checkpoints
        self.task, self.policy, self.average, self.rank = task, policy, average, rank
        self._sampler = None
        if job.pretraining and rank == 0:
            self._sampler = Sampler(job.pretraining, local_policy(job.policy_dir))

    def reached(self, step: int, steps: int) -> Iterator[dict[str, Any]]:
        """Validates and samples where that is due after ``step`` of ``steps``; gives an event for each."""
        if self.plan is None or self.rank != 0:
            return
        validates, samples = (_due(step, steps, every) for every in (self.plan.validate_every, self.plan.sample_every))
        if validates or samples:
            with self._stored_weights():
                yield from self._validate(step) if validates else ()
                yield from self._sample(step) if samples else ()

    def save(self, progress: Progress, steps: int, engine: Any) -> None:
        """Writes a checkpoint, where one is due. Every rank calls it.

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
        assert self._sampler is not None
        files = self._sampler(self.policy, step)
        if files:
            yield {"event": "samples", "step": step, "files": files}

    @contextmanager
    def _stored_weights(self) -> Generator[None]:
        """The average in the policy's place, as long as the block lasts."""
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


def _due(step: int, steps: int, every: int) -> bool:
    return step == steps or step % every == 0

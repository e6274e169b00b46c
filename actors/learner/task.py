"""What the learner needs to know of a training: alignment and pretraining are each a task for the same ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from actors.learner.batches import NoiseKey
from tangoflux.model.policy import Policy

Velocity = Callable[..., Tensor]
"""``Policy.forward``, or a DeepSpeed engine around it."""


class TrainingTask(Protocol):
    """Rows of data, and the loss on them."""

    rows: list[int]
    """What is trained on."""

    def order(self, key: NoiseKey) -> list[int]:
        """The order in which an epoch sees ``rows``."""
        ...

    def num_frames(self, row: int) -> int:
        """Frames of a row's latents; rows of similar length share a forward pass."""
        ...

    def losses(self, policy: Velocity, rows: Sequence[int], key: NoiseKey) -> tuple[Tensor, Tensor]:
        """The loss (B,) of some rows with the noise of ``key``, and sums over them for ``means``."""
        ...

    def means(self, sums: Tensor) -> dict[str, float]:
        """Sums, added over batches and ranks, as named means; one of them is ``loss``."""
        ...

    def initial_metrics(self, policy: Policy) -> dict[str, Any]:
        """What is measured on rank 0 before the training."""
        ...

    def final_metrics(self, load_new: Callable[[], Policy]) -> dict[str, Any]:
        """What is measured on rank 0 with the new policy as it is stored, which ``load_new`` loads."""
        ...

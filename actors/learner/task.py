"""The interface between the ranks and what they train: alignment or pretraining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from actors.learner.batches import NoiseKey
from tangoflux.flow import Velocity
from tangoflux.model.policy import Policy


class TrainingTask(Protocol):
    """Rows of data, and the loss on them."""

    rows: list[int]
    """The rows to train on."""

    micro_batch_size: int
    """The most rows in a forward pass; a row may hold several samples."""

    def order(self, key: NoiseKey) -> list[int]:
        """The order in which an epoch sees ``rows``."""
        ...

    def num_frames(self, row: int) -> int:
        """Frames of a row's latents; rows of similar length share a forward pass."""
        ...

    def losses(self, policy: Velocity, rows: Sequence[int], key: NoiseKey) -> tuple[Tensor, Tensor]:
        """The loss (B,) of ``rows`` with the noise of ``key``, and sums over them for ``means``."""
        ...

    def means(self, sums: Tensor) -> dict[str, float]:
        """Named means from sums that were added over batches and ranks; one of them is ``loss``."""
        ...

    def initial_metrics(self, policy: Policy) -> dict[str, Any]:
        """Metrics before the training, on rank 0."""
        ...

    def final_metrics(self, load_new: Callable[[], Policy]) -> dict[str, Any]:
        """Metrics after the training, on rank 0, of the stored policy, which ``load_new`` loads."""
        ...

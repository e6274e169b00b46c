"""Alignment, the training task on pairs and groups, with metrics before and after the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from actors.learner.alignment.groups import GroupData
from actors.learner.alignment.losses import Measurer, group_losses, means, metric_names
from actors.learner.batches import NoiseKey, epoch_order, largest_margins, split_heldout
from actors.learner.settings import AlignmentSettings
from tangoflux.errors import DataError
from tangoflux.flow import Velocity
from tangoflux.model.policy import Policy
from tangoflux.model.reference import Reference

PROBE_GROUPS = 32
"""The most training groups on which start and end are compared."""
HELDOUT_DRAWS = 4
"""Noises per held-out group: they are few, and a single noise says little about one."""


class Alignment:
    """The groups of an iteration, with the policy at its start as the reference."""

    def __init__(
        self, settings: AlignmentSettings, seed: int, iteration: int, data: GroupData, reference: Reference
    ) -> None:
        """Splits the groups.

        Args:
            reference: frozen, on the device and in the precision of the training.

        Raises:
            DataError: the latents have another number of channels than the policy's.
        """
        _check_channels(data, reference)
        self.settings, self.data, self.reference = settings, data, reference
        rows, self.heldout_rows = split_heldout(len(data), settings.heldout_pairs, seed, iteration)
        self.rows = largest_margins(rows, data.margins, settings.group_share)
        self.micro_batch_size = data.groups_per_pass(settings.micro_batch_size)
        self._run = (seed, iteration)

    def order(self, key: NoiseKey) -> list[int]:
        """A random permutation."""
        return epoch_order(self.rows, key)

    def num_frames(self, row: int) -> int:
        """Frames of all of a group's latents."""
        return self.data.num_frames[row]

    def losses(self, policy: Velocity, rows: Sequence[int], key: NoiseKey) -> tuple[Tensor, Tensor]:
        """The objective (B,) of the groups at ``rows``, and ``GroupLosses.sums``."""
        batch = self.data.batch(rows, key, min_sigma=self.settings.objective.min_sigma).to(self.reference.device)
        losses = group_losses(policy, self.reference, batch, self.settings.objective)
        return losses.loss, losses.sums()

    def means(self, sums: Tensor) -> dict[str, float]:
        """See ``losses.means``."""
        return means(metric_names(self.settings.objective, self.data.trains_on_worst), sums)

    def initial_metrics(self, policy: Policy) -> dict[str, Any]:
        """Losses and gradient norms at the start, and the number of training groups."""
        return {"start": self._measure(policy), "pairs": len(self.rows)}

    def final_metrics(self, load_new: Callable[[], Policy]) -> dict[str, Any]:
        """The same at the end, and the share of held-out groups whose best and worst the new policy ranks so."""
        policy, accuracy = load_new(), None
        if self.heldout_rows:
            keys = [(*self._run, f"held out {draw}") for draw in range(HELDOUT_DRAWS)]
            accuracy = self._measurer().pairs(policy, self.heldout_rows, keys)["implicit_accuracy"]
        return {"end": self._measure(policy), "heldout_pair_accuracy": accuracy}

    def _measure(self, policy: Policy) -> dict[str, Any]:
        """Losses and gradient norms on the probe: some training groups, with noise that no epoch uses."""
        key = (*self._run, "probe")
        rows = epoch_order(self.rows, key)[:PROBE_GROUPS]
        found, grad_norm = self._measurer().probe(policy, rows, key)
        renamed = {"winner": found["winner_loss"], "loser": found["loser_loss"]}
        renamed |= {name: found[name] for name in ("implicit_accuracy", "margin")}
        return {"loss": renamed, "grad_norm": grad_norm}

    def _measurer(self) -> Measurer:
        return Measurer(self.reference, self.data, self.settings.objective, self.micro_batch_size)


def _check_channels(data: GroupData, policy: Reference) -> None:
    channels, expected = data.channels, policy.config.in_channels
    if channels != expected:
        raise DataError(f"the latents have {channels} channels, the policy {expected}: did another policy make them?")

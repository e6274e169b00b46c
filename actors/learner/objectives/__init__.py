"""The objectives of alignment, one file each, which holds the loss of a preference pair.

To add one, write a module here with a function ``loss`` of the type ``PairLoss`` and enter its name in ``OBJECTIVES``.
This module imports no torch: the options need the names only.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

OBJECTIVES = {
    "crpo": "dpo_fm plus the flow-matching loss of the chosen sample",
    "dpo_fm": "DPO for flow matching",
}
"""Each objective's name, which is its module's, and its description in the help."""


class PairErrors(NamedTuple):
    """Squared velocity errors (B,) at the same noise and sigma, of the policy and, without gradients, the reference."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor


PairLoss = Callable[[PairErrors, float], "Tensor"]
"""From the errors of B pairs and beta to their losses (B,)."""


def load_objective(name: str) -> PairLoss:
    """The loss of an objective; imports its module, and with it torch."""
    return import_module(f"{__name__}.{name}").loss

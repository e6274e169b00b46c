"""The length of a training: how many rows are held out, and how many optimiser steps train on the rest.

Without torch, as the options use it too.
"""

from __future__ import annotations

import math

from tangoflux.errors import ConfigError


def num_heldout(rows: int, most: int) -> int:
    """How many of ``rows`` are held out: ``most``, but at most an eighth."""
    return min(most, rows // 8)


def num_trained(groups: int, heldout: int, share: float) -> int:
    """How many of ``groups`` are trained on: of those that are not held out, ``share``, rounded up.

    Args:
        heldout: see ``num_heldout``.
    """
    return math.ceil(share * (groups - num_heldout(groups, heldout)))


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Optimiser steps of an epoch; the last one may see fewer rows."""
    return -(-rows // batch_size)


def num_steps(rows: int, batch_size: int, epochs: int, max_steps: int | None = None) -> int:
    """Optimiser steps of a training on ``rows``, at most ``max_steps``."""
    steps = epochs * steps_per_epoch(rows, batch_size)
    return steps if max_steps is None else min(steps, max_steps)


def check_warmup(warmup_steps: int, steps: int, described_as: str, options_to_raise: str = "--epochs") -> None:
    """Checks that the learning rate reaches its peak.

    Args:
        described_as: what has ``steps`` steps, for the error.
        options_to_raise: the options that make the training longer, for the error.

    Raises:
        ConfigError: the warm-up is as long as the training.
    """
    if warmup_steps >= steps:
        raise ConfigError(
            f"--warmup-steps {warmup_steps} is not below the {steps} steps of {described_as}, so the learning rate "
            f"would never be reached; lower it, or raise {options_to_raise}"
        )

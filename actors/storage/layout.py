"""The names in a run's directory that several modules use."""

from __future__ import annotations

POLICIES, ROLLOUTS, PREFERENCES = "policies", "rollouts", "preferences"


def iteration_name(iteration: int) -> str:
    """The name of an iteration's directory, such as ``i0001``."""
    return f"i{iteration:04d}"

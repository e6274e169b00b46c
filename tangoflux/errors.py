"""Errors that a user can act on. Each message is one line that names the value and the fix.

TangoFluxError
├── ConfigError      an option, key or value of the configuration
├── DataError        a prompt file, manifest, shard or preference dataset
├── CheckpointError  a directory or file of weights
├── ResourceError    disk, memory, processors or a missing tool on this machine
└── RewardError      a reward model that fails too often
    └── WeightsChangedError  a reward model that is no longer the one whose scores there are already
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "ResourceError",
    "RewardError",
    "TangoFluxError",
    "WeightsChangedError",
]


class TangoFluxError(Exception):
    """Base of every error that this project raises on purpose."""


class ConfigError(TangoFluxError):
    """An option, key or value of the configuration cannot be used."""


class DataError(TangoFluxError):
    """A prompt file, manifest, shard or preference dataset cannot be used."""


class CheckpointError(TangoFluxError):
    """A directory or file of weights is missing, incomplete or of another model."""


class ResourceError(TangoFluxError):
    """This machine or cluster does not have what the run needs."""


class RewardError(TangoFluxError):
    """A reward model failed for more groups than the run allows."""


class WeightsChangedError(RewardError):
    """A reward model has other weights than when it was first asked: their scores must not be mixed."""

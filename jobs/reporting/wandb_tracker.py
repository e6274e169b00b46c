"""Scalars and audio for Weights & Biases."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.reporting.trackers import Axis
from tangoflux.errors import ConfigError


def check_wandb() -> None:
    """Checks that the package is installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("wandb") is None:
        raise ConfigError("--wandb-project needs the package wandb: pip install 'tangoflux[wandb]', or leave it out")


class WandbTracker:
    """Logs to a W&B run, which a resumed run continues.

    Args:
        directory: the run directory; its ``wandb/`` holds the files.
        project: the W&B project. W&B's own environment variables select account, server and mode
            (``WANDB_MODE=offline``).
        config: the run's options.
    """

    def __init__(self, directory: Path, project: str, config: Mapping[str, Any]) -> None:
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        path = directory.resolve()
        self._run = wandb.init(
            project=project,
            name=path.name,
            id=hashlib.sha256(str(path).encode()).hexdigest()[:16],
            resume="allow",
            dir=path,
            config=dict(config),
        )
        for axis, prefixes in (("step", ("step", "validation")), ("iteration", ("iteration", "samples"))):
            self._run.define_metric(f"{axis}/number", hidden=True)
            for prefix in prefixes:
                self._run.define_metric(f"{prefix}/*", step_metric=f"{axis}/number")

    def scalars(self, values: Mapping[str, float], axis: Axis, number: int) -> None:
        """See ``Tracker``."""
        self._run.log({**values, f"{axis}/number": number})

    def audio(self, tag: str, waveform: npt.NDArray[np.float32], sample_rate_hz: int, iteration: int) -> None:
        """See ``Tracker``."""
        import wandb

        self._run.log({tag: wandb.Audio(waveform, sample_rate_hz), "iteration/number": iteration})

    def close(self, failed: bool) -> None:
        """See ``Tracker``."""
        self._run.finish(exit_code=int(failed))

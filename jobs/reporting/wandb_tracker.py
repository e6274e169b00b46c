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
from tangoflux.errors import ConfigError, ResourceError

WITHOUT_ACCOUNT = ("offline", "disabled", "dryrun")
"""Modes of W&B that need no account."""


def check_wandb() -> None:
    """Checks that the package is installed, and logs in unless W&B's settings say offline.

    Raises:
        ConfigError: it is not installed, there is no key, or W&B refuses it or does not answer.
    """
    if find_spec("wandb") is None:
        raise ConfigError("--wandb-project needs the package wandb: pip install 'tangoflux[wandb]', or leave it out")
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        ready = wandb.login(prompt=False) or wandb.setup().settings.mode in WITHOUT_ACCOUNT
        problem = "" if ready else "no W&B account is logged in"
    except wandb.Error as error:
        problem = _first_line(error)
    if problem:
        raise ConfigError(f"--wandb-project: {problem}; set WANDB_API_KEY, or WANDB_MODE=offline to log to files only")


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
        try:
            self._run = wandb.init(
                project=project,
                name=path.name,
                id=hashlib.sha256(str(path).encode()).hexdigest()[:16],
                resume="allow",
                dir=path,
                config=dict(config),
            )
        except wandb.Error as error:
            raise ResourceError(f"--wandb-project {project}: {_first_line(error)}") from None
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


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].removesuffix(".")

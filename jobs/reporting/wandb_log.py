"""The scalars and audio of ``TensorboardLog`` for Weights & Biases, where ``--wandb-project`` asks for it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.storage.metrics import Event
from jobs.reporting.tensorboard_log import TensorboardLog, mono_of, scalars_of
from tangoflux.errors import ConfigError


def check_wandb() -> None:
    """Whether the package is there.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("wandb") is None:
        raise ConfigError("--wandb-project needs the package wandb: pip install 'tangoflux[wandb]', or leave it out")


class WandbLog(TensorboardLog):
    """Writes to TensorBoard, and the same to a run of W&B, which a resumed run goes on with.

    Args:
        directory: of the run; its ``tensorboard/`` and ``wandb/`` hold the files.
        steps_before: see ``TensorboardLog``.
        project: of W&B. Who logs in where, and whether at all (``WANDB_MODE=offline``), is W&B's environment.
        config: the run's options.
    """

    def __init__(self, directory: Path, steps_before: int, project: str, config: Mapping[str, Any]) -> None:
        import wandb

        super().__init__(directory / "tensorboard", steps_before)
        os.environ.setdefault("WANDB_SILENT", "true")
        name = directory.resolve()
        self._run = wandb.init(
            project=project,
            name=name.name,
            id=hashlib.sha256(str(name).encode()).hexdigest()[:16],
            resume="allow",
            dir=name,
            config=dict(config),
        )
        # Steps and iterations are axes of their own.
        for axis in ("step", "iteration"):
            self._run.define_metric(f"{axis}/number", hidden=True)
            self._run.define_metric(f"{axis}/*", step_metric=f"{axis}/number")
        self._run.define_metric("samples/*", step_metric="iteration/number")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._run.finish(exit_code=0 if kind is None else 1)

    def iteration(self, event: Event) -> None:
        """As ``TensorboardLog.iteration``."""
        super().iteration(event)
        self._run.log({**dict(scalars_of(event, "iteration")), "iteration/number": event["iteration"]})

    def step(self, event: Event) -> None:
        """As ``TensorboardLog.step``."""
        super().step(event)
        self._run.log({**dict(scalars_of(event, "step")), "step/number": self.steps})

    def audio(self, tag: str, waveform: npt.NDArray[np.float32], sample_rate_hz: int, iteration: int) -> None:
        """As ``TensorboardLog.audio``."""
        super().audio(tag, waveform, sample_rate_hz, iteration)
        import wandb

        mono = mono_of(waveform)
        if mono.size > 1:
            self._run.log({tag: wandb.Audio(mono, sample_rate_hz), "iteration/number": iteration})

"""Settings of a measurement, and the published code's model with the same weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.utils.logging import set_verbosity_error

from jobs.benchmarks.published_code import give_text_encoder, load_published
from jobs.benchmarks.speed.published_steps import PublishedSteps
from jobs.benchmarks.speed.sizes import SIZES, Size
from jobs.benchmarks.speed.timing import Precision
from tangoflux.model.policy import Policy

OURS, PUBLISHED = "ours", "published"


@dataclass(frozen=True)
class Settings:
    """Options of a measurement.

    Attributes:
        size: a key of ``SIZES``.
        precision: ours; the published code computes in float32.
        compiled: whether the blocks of our transformer are compiled.
        num_steps: Euler steps of a sample.
        batches: numbers of prompts that our rollouts sample at once.
        repository: a clone of the published code; None uses the reimplementation of its steps.
    """

    size: str
    device: str
    precision: Precision
    compiled: bool
    rounds: int
    num_steps: int
    batches: tuple[int, ...]
    repository: Path | None

    @property
    def model(self) -> Size:
        """The measured model and the amount of work."""
        return SIZES[self.size]

    @property
    def bf16(self) -> bool:
        """Whether we compute in bfloat16."""
        return self.precision == "bf16"


def published_model(policy: Policy, repository: Path | None) -> Any:
    """The published code's model with the weights of ``policy``, on its device.

    Raises:
        ConfigError: see ``load_published``.
    """
    if repository is None:
        return PublishedSteps(policy).to(policy.device)
    code = load_published(repository)
    give_text_encoder(code, policy.text_encoder, policy.tokenizer)
    published = code.TangoFlux(policy.config.to_dict()).eval()
    published.load_state_dict(policy.state_dict())
    return published.to(policy.device)


def quiet() -> None:
    """Silences warnings about the published code's ids and about RMSNorm under autocast."""
    set_verbosity_error()
    warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")

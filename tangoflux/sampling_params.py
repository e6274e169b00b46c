"""How latents are sampled: the parameters, their limits, the paper's defaults, and the precision.

Imports no torch, so that command-line options can be declared from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tangoflux.errors import ConfigError

MAX_NUM_STEPS = 1000
MAX_GUIDANCE_SCALE = 100

MIN_DURATION_S = 0.001
"""The shortest audio: that of less than a sample would have no latents."""

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class SamplingParams:
    """How latents are sampled. The defaults are the paper's.

    Attributes:
        num_steps: Euler steps, 1 to ``MAX_NUM_STEPS``.
        guidance_scale: classifier-free guidance, 0 to ``MAX_GUIDANCE_SCALE``; at <= 1 there is none.
        negative_prompt: text of the unconditional branch.

    Raises:
        ConfigError: a number is out of range.
    """

    num_steps: int = 50
    guidance_scale: float = 4.5
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.num_steps <= MAX_NUM_STEPS:
            raise ConfigError(f"num_steps {self.num_steps} must be from 1 to {MAX_NUM_STEPS}")
        if not 0 <= self.guidance_scale <= MAX_GUIDANCE_SCALE:
            raise ConfigError(f"guidance_scale {self.guidance_scale} must be a number from 0 to {MAX_GUIDANCE_SCALE}")


MINIATURE_PARAMS = SamplingParams(num_steps=6, guidance_scale=5.0)
"""Default of the jobs, and of figures about the miniature."""


def uses_bf16(precision: Precision, device: str) -> bool:
    """Whether the policy computes in bfloat16; with ``auto``, whether ``device`` has instructions for it."""
    import torch

    if precision != "auto":
        return precision == "bf16"
    if device == "cpu":
        features = torch.cpu.get_capabilities()
        return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return torch.cuda.is_bf16_supported(including_emulation=False)

"""In which precision a worker computes."""

from __future__ import annotations

from typing import Literal

Precision = Literal["auto", "fp32", "bf16"]


def uses_bf16(precision: Precision, device: str) -> bool:
    """Whether the policy is to compute in bfloat16; ``auto`` does where ``device`` has instructions for it."""
    # torch takes seconds to import, which the options, of which this is a type, need not wait for.
    import torch

    if precision != "auto":
        return precision == "bf16"
    if device == "cpu":
        features = torch.cpu.get_capabilities()
        return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return torch.cuda.is_bf16_supported(including_emulation=False)

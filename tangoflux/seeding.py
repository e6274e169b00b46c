"""Seeds and random generators that depend on what is computed, never on when or where."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed from the parts' values and order, the same on every machine and in every process.

    Example: ``derive_seed(run_seed, "rollout", iteration, prompt_id, sample_index)``.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1


def seeded_generator(*parts: str | int) -> torch.Generator:
    """A CPU generator seeded with ``derive_seed(*parts)``; noise drawn from it is then moved to the device."""
    import torch  # takes seconds, and most importers need the seeds only

    return torch.Generator("cpu").manual_seed(derive_seed(*parts))

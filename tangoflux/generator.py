"""Random number generators that are seeded by what is computed."""

from __future__ import annotations

import torch

from tangoflux.seeding import derive_seed


def generator(*parts: str | int) -> torch.Generator:
    """A CPU generator seeded with ``derive_seed(*parts)``; noise drawn from it is then moved to the device."""
    return torch.Generator("cpu").manual_seed(derive_seed(*parts))

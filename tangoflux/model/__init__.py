"""The models, the published directory layout, and reading and writing weights."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "TangoFlux":
        raise ImportError(
            "tangoflux.model.TangoFlux is of the package by the paper's authors, which is also named tangoflux; "
            "in this one it is tangoflux.model.policy.Policy, and tangoflux.TangoFlux is policy and codec together"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

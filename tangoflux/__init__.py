"""Text-to-audio by flow matching in plain PyTorch: models, sampling, losses, data formats and reward models.

The public names are imported on first use: ``import tangoflux.errors`` must not wait seconds for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tangoflux.errors import TangoFluxError
    from tangoflux.pipeline import TangoFlux
    from tangoflux.rewards import Reward, load_reward
    from tangoflux.sampling import sample_latents
    from tangoflux.sampling_params import SamplingParams

__all__ = ["Reward", "SamplingParams", "TangoFlux", "TangoFluxError", "load_reward", "sample_latents"]

_MODULES = {
    "Reward": "tangoflux.rewards",
    "SamplingParams": "tangoflux.sampling_params",
    "TangoFlux": "tangoflux.pipeline",
    "TangoFluxError": "tangoflux.errors",
    "load_reward": "tangoflux.rewards",
    "sample_latents": "tangoflux.sampling",
}

_PUBLISHED = {
    "TangoFluxInference": "from tangoflux import TangoFlux; "
    "model = TangoFlux.from_pretrained('declare-lab/TangoFlux'); "
    "[[waveform]] = model.generate(prompt, duration_s=10.0, num_steps=50, guidance_scale=4.5)"
}
"""Names of the package by the paper's authors, which has this one's name, and how it is written here."""


def __getattr__(name: str) -> Any:
    if name in _PUBLISHED:
        # An AttributeError's text would be lost on "from tangoflux import".
        raise ImportError(
            f"{name} is of the package by the paper's authors, which is also named tangoflux; in this one write: "
            f"{_PUBLISHED[name]} (see docs/alignment.md, Audio from a policy)"
        )
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__

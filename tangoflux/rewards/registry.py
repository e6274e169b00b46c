"""Reward models by name: the embedded ones, a directory of a CLAP model, or a class of the user's own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from tangoflux.errors import ConfigError
from tangoflux.rewards.clap import ClapReward
from tangoflux.rewards.detector import DetectorReward
from tangoflux.rewards.protocol import Reward

EMBEDDED = Path(__file__).parent.parent / "miniature"

_NAMES: dict[str, Callable[[], Reward]] = {
    "miniature-clap": lambda: ClapReward(EMBEDDED / "clap", "miniature-clap"),
    "miniature-judge": lambda: ClapReward(EMBEDDED / "judge", "miniature-judge"),
    "miniature-detector": lambda: DetectorReward(EMBEDDED / "detector", "miniature-detector"),
    "miniature-recall": lambda: DetectorReward(EMBEDDED / "detector", "miniature-recall", "recall"),
}


def check_reward(name: str) -> None:
    """Whether ``load_reward`` knows what to load, without loading it.

    Raises:
        ConfigError: it does not; the message names what there is.
    """
    if name in _NAMES or Path(name).is_dir():
        return
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ConfigError(f"reward {name!r} is none of {', '.join(_NAMES)}, no directory and no module:Class")
    if module not in sys.modules and not _is_importable(module):
        raise ConfigError(f"reward {name!r}: there is no module {module} to import; is its folder on PYTHONPATH?")


def load_reward(name: str) -> Reward:
    """Loads a reward model.

    Args:
        name: an embedded one ("miniature-clap", "miniature-judge", "miniature-detector", "miniature-recall"), a
            directory of a transformers ClapModel, or ``module:Class`` of a class with a constructor without arguments.

    Raises:
        ConfigError: there is no such reward.
        CheckpointError: its weights cannot be read.
    """
    check_reward(name)
    if name in _NAMES:
        return _NAMES[name]()
    if Path(name).is_dir():
        return ClapReward(Path(name), Path(name).resolve().name)
    module, _, attribute = name.partition(":")
    reward = _factory(name, module, attribute)()
    if not isinstance(reward, Reward):
        raise ConfigError(f"reward {name!r} lacks name, checkpoint or __call__ (see tangoflux.rewards.Reward)")
    return reward


def _factory(name: str, module: str, attribute: str) -> Callable[[], object]:
    try:
        factory = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ConfigError(f"reward {name!r}: module {module} cannot be imported: {error}") from error
    if not callable(factory):
        raise ConfigError(f"reward {name!r}: module {module} has no class {attribute}")
    return factory


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False

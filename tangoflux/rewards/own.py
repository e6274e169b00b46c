"""Reward classes of the user's own: importing one, and whether it is one."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager

from tangoflux.errors import ConfigError
from tangoflux.rewards.protocol import Reward


def load_own(name: str) -> Reward:
    """Makes the reward of ``module:Class``.

    Raises:
        ConfigError: it cannot be imported, made without arguments or called as a ``Reward`` is; the message says why.
    """
    module, _, attribute = name.partition(":")
    factory = _factory(name, module, attribute)
    if not _takes(factory, 0):
        raise ConfigError(f"reward {name!r}: {attribute} needs arguments; its constructor must have none")
    with _explained(f"reward {name!r}: {attribute}() failed"):
        reward = factory()
    if not isinstance(reward, Reward):
        raise ConfigError(f"reward {name!r} lacks name, checkpoint or __call__ (see tangoflux.rewards.Reward)")
    texts: list[object] = [reward.name, reward.checkpoint]
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"reward {name!r}: its name and checkpoint must be strings")
    if not _takes(reward, 3):
        raise ConfigError(f"reward {name!r} cannot be called with (prompts, waveforms, sample_rate_hz)")
    return reward


def _factory(name: str, module: str, attribute: str) -> Callable[[], object]:
    where = f"reward {name!r}: module {module}"
    with _explained(f"{where} cannot be imported"):
        factory = getattr(importlib.import_module(module), attribute, None)
    if not callable(factory):
        raise ConfigError(f"{where} has no class {attribute}")
    return factory


@contextmanager
def _explained(failure: str) -> Generator[None]:
    """For code of the user's, which may raise anything."""
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"{failure}: {type(error).__name__}: {reason}") from error


def _takes(function: Callable[..., object], arguments: int) -> bool:
    """Whether it can be called with so many; what has no signature, such as a built-in, is given a try."""
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:
        return True
    return True

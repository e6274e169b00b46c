"""Reward classes of the user's own: importing one, and whether it is one."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager

from tangoflux.errors import ConfigError
from tangoflux.rewards.protocol import Reward

NO_REWARD = "lacks name, checkpoint or __call__ (see tangoflux.rewards.Reward)"
NOT_CALLABLE = "cannot be called with (prompts, waveforms, sample_rate_hz)"


def check_own(name: str) -> Callable[[], object]:
    """The ``Class`` of ``module:Class``, of which nothing is made yet.

    Raises:
        ConfigError: it cannot be imported, or a class of its signatures is no ``Reward``; the message says why.
    """
    module, _, attribute = name.partition(":")
    factory = _factory(name, module, attribute)
    if not _takes(factory, 0):
        raise ConfigError(f"reward {name!r}: {attribute} needs arguments; its constructor must have none")
    if inspect.isclass(factory):
        call = next((vars(base)["__call__"] for base in factory.__mro__ if "__call__" in vars(base)), None)
        if call is None:
            raise ConfigError(f"reward {name!r} {NO_REWARD}")
        if not _takes(call, 4):
            raise ConfigError(f"reward {name!r} {NOT_CALLABLE}")
    return factory


def load_own(name: str) -> Reward:
    """Makes the reward of ``module:Class``.

    Raises:
        ConfigError: see ``check_own``; or its constructor fails, or what it makes is no ``Reward``.
    """
    factory, attribute = check_own(name), name.partition(":")[2]
    with _explained(f"reward {name!r}: {attribute}() failed"):
        reward = factory()
    if not isinstance(reward, Reward):
        raise ConfigError(f"reward {name!r} {NO_REWARD}")
    texts: list[object] = [reward.name, reward.checkpoint]
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"reward {name!r}: its name and checkpoint must be strings")
    if not _takes(reward, 3):
        raise ConfigError(f"reward {name!r} {NOT_CALLABLE}")
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

"""Users' own reward classes: importing and checking them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager

from tangoflux.errors import ConfigError
from tangoflux.rewards.protocol import Reward

NO_REWARD = "has no name, checkpoint or __call__ (see tangoflux.rewards.Reward)"
NOT_CALLABLE = "cannot be called with (prompts, waveforms, sample_rate_hz)"


def check_own(name: str) -> Callable[[], object]:
    """Imports the ``Class`` of ``module:Class`` without an instance.

    Raises:
        ConfigError: it cannot be imported, or its signatures are not those of a ``Reward``; the message says why.
    """
    module, _, attribute = name.partition(":")
    factory = _factory(name, module, attribute)
    if not _accepts(factory, 0):
        raise ConfigError(f"reward {name!r}: {attribute} needs arguments; its constructor must have none")
    if inspect.isclass(factory):
        call = next((vars(base)["__call__"] for base in factory.__mro__ if "__call__" in vars(base)), None)
        if call is None:
            raise ConfigError(f"reward {name!r} {NO_REWARD}")
        if not _accepts(call, 4):
            raise ConfigError(f"reward {name!r} {NOT_CALLABLE}")
    return factory


def load_own(name: str) -> Reward:
    """Creates the reward of ``module:Class``.

    Raises:
        ConfigError: see ``check_own``; or the constructor fails or does not return a ``Reward``.
    """
    factory, attribute = check_own(name), name.partition(":")[2]
    with _converted_errors(f"reward {name!r}: {attribute}() failed"):
        reward = factory()
    if not isinstance(reward, Reward):
        raise ConfigError(f"reward {name!r} {NO_REWARD}")
    texts: list[object] = [reward.name, reward.checkpoint]
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"reward {name!r}: its name and checkpoint must be strings")
    if not _accepts(reward, 3):
        raise ConfigError(f"reward {name!r} {NOT_CALLABLE}")
    return reward


def _factory(name: str, module: str, attribute: str) -> Callable[[], object]:
    where = f"reward {name!r}: module {module}"
    with _converted_errors(f"{where} cannot be imported"):
        factory = getattr(importlib.import_module(module), attribute, None)
    if not callable(factory):
        raise ConfigError(f"{where} has no class {attribute}")
    return factory


@contextmanager
def _converted_errors(failure: str) -> Generator[None]:
    """Converts any exception of a user's code into a ConfigError."""
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"{failure}: {type(error).__name__}: {reason}") from error


def _accepts(function: Callable[..., object], arguments: int) -> bool:
    """Whether a function can be called with this many arguments; true if it has no signature, as some built-ins."""
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:
        return True
    return True

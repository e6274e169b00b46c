"""Reward models by name: the embedded ones, CLAP models on disk, classes of the user's own, and weighted sums of these.

A name is one of

    miniature-clap, miniature-judge, miniature-detector, miniature-recall
    DIRECTORY           a transformers ClapModel
    FILE.pt             a checkpoint of laion_clap, run by transformers
    laion:FILE.pt       the same, run by laion_clap itself
    windows:CLAP        any of the CLAP models above, which then hears all of long audio
    module:Class        a class with a constructor without arguments
    0.7*NAME+0.3*NAME   their weighted sum
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from tangoflux.errors import ConfigError
from tangoflux.rewards.clap import ClapReward
from tangoflux.rewards.detector import DetectorReward, Measure
from tangoflux.rewards.laion import LaionReward, check_laion_installed
from tangoflux.rewards.own import load_own
from tangoflux.rewards.protocol import Reward
from tangoflux.rewards.weighted import Term, WeightedReward, parse_terms

EMBEDDED = Path(__file__).parent.parent / "miniature"

_CLAPS = {"miniature-clap": EMBEDDED / "clap", "miniature-judge": EMBEDDED / "judge"}
_DETECTORS: dict[str, Measure] = {"miniature-detector": "exact", "miniature-recall": "recall"}
_WINDOWS, _LAION = "windows:", "laion:"


def check_reward(name: str) -> None:
    """Whether ``load_reward`` knows what to load, without loading it.

    Raises:
        ConfigError: it does not; the message names what there is.
    """
    for term in _terms(name):
        _check_one(term.name)


def load_reward(name: str) -> Reward:
    """Loads a reward model, or a weighted sum of several; this module's docstring says how they are written.

    Raises:
        ConfigError: there is no such reward.
        CheckpointError: its weights cannot be read.
    """
    check_reward(name)
    terms = _terms(name)
    if [term.weight for term in terms] == [1.0]:
        return _load_one(terms[0].name)
    return WeightedReward([term.weight for term in terms], [_load_one(term.name) for term in terms])


def _terms(name: str) -> list[Term]:
    # A path that exists is itself, whatever characters are in it.
    return [Term(1.0, name)] if name and Path(name).exists() else parse_terms(name)


def _check_one(name: str) -> None:
    if name in _DETECTORS or _is_clap(name):
        return
    if name.startswith((_WINDOWS, _LAION)):
        _check_prefixed(name)
    elif name.endswith(".pt"):
        raise ConfigError(f"reward {name!r}: there is no such file")
    else:
        _check_module(name)


def _is_clap(name: str) -> bool:
    return name in _CLAPS or _is_checkpoint(name) or (name != "" and Path(name).is_dir())


def _is_checkpoint(name: str) -> bool:
    return name.endswith(".pt") and Path(name).is_file()


def _check_prefixed(name: str) -> None:
    inner = name.removeprefix(_WINDOWS)
    if inner.startswith(_LAION):
        if not _is_checkpoint(inner.removeprefix(_LAION)):
            raise ConfigError(f"reward {name!r}: after laion: there must be a .pt file that exists")
        check_laion_installed()
    elif not _is_clap(inner):
        raise ConfigError(f"reward {name!r}: {inner!r} is no CLAP model, and only these hear windows")


def _check_module(name: str) -> None:
    module, _, attribute = name.partition(":")
    if not attribute:
        known = ", ".join([*_CLAPS, *_DETECTORS])
        raise ConfigError(f"reward {name!r} is none of {known}, no directory, no .pt file and no module:Class")
    if module not in sys.modules and not _is_importable(module):
        raise ConfigError(f"reward {name!r}: there is no module {module} to import; is its folder on PYTHONPATH?")


def _load_one(name: str) -> Reward:
    if name in _DETECTORS:
        return DetectorReward(EMBEDDED / "detector", name, _DETECTORS[name])
    inner = name.removeprefix(_WINDOWS)
    if inner.startswith(_LAION) or _is_clap(inner):
        return _load_clap(inner, windows=inner != name)
    return load_own(name)


def _load_clap(name: str, windows: bool) -> Reward:
    label = _WINDOWS if windows else ""
    if name in _CLAPS:
        return ClapReward(_CLAPS[name], label + name, windows)
    path = Path(name.removeprefix(_LAION))
    if name.startswith(_LAION):
        return LaionReward(path, label + _LAION + path.name, windows)
    return ClapReward(path, label + path.resolve().name, windows)


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False

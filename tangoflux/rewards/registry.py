"""Reward models by name: the embedded ones, CLAP models on disk, users' own classes, and weighted sums of these.

A name is one of

    miniature-clap, miniature-compositional-clap, miniature-grounder, miniature-judge, miniature-detector,
    miniature-recall   the embedded ones
    630k-audioset-best, 630k-audioset-fusion-best, music_speech_audioset_epoch_15
                        the published checkpoints of laion_clap, from the hub
    DIRECTORY           a transformers ClapModel
    FILE.pt             a checkpoint of laion_clap, run by transformers
    laion:FILE.pt       the same, run by laion_clap itself; also laion:630k-audioset-best
    windows:CLAP        any of the CLAP models above, averaged over all windows of long audio
    http://HOST/PATH    a server that speaks the protocol of docs/rewards.md; also https://
    openai:http://HOST/v1#MODEL
                        an audio language model at an OpenAI-compatible server, asked yes/no questions that follow
                        from the caption; with /v1?checks=model it writes the questions itself
    module:Class        a class with a constructor without arguments
    0.7*NAME+0.3*NAME   several of them; ``tangoflux.reward_combination`` has how they become one
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

from tangoflux.errors import ConfigError, RewardError
from tangoflux.reward_combination import Combination
from tangoflux.rewards.clap import ClapReward
from tangoflux.rewards.detector import DetectorReward, Measure
from tangoflux.rewards.grounder import GrounderReward
from tangoflux.rewards.http.address import is_served, parse_address
from tangoflux.rewards.http.chat import ChatReward
from tangoflux.rewards.http.client import PATIENT, Limits
from tangoflux.rewards.http.scorer import HttpReward
from tangoflux.rewards.laion import LaionReward, check_laion_installed
from tangoflux.rewards.own import check_own, load_own
from tangoflux.rewards.protocol import Reward
from tangoflux.rewards.published import CHECKPOINTS, fetch_checkpoint, fetch_roberta_tokenizer
from tangoflux.rewards.weighted import Term, WeightedReward, parse_terms

EMBEDDED = Path(__file__).parent.parent / "miniature"

_CLAPS = {
    "miniature-clap": EMBEDDED / "clap",
    "miniature-compositional-clap": EMBEDDED / "compositional",
    "miniature-judge": EMBEDDED / "judge",
}
_DETECTORS: dict[str, Measure] = {"miniature-detector": "exact", "miniature-recall": "recall"}
_GROUNDER = "miniature-grounder"
QUICK_LIMITS = Limits(timeout_s=60.0, attempts=3)
"""Before anything is started: soon enough for the person who waits."""

_WINDOWS, _LAION = "windows:", "laion:"


def check_reward(name: str) -> dict[str, str]:
    """Checks that ``load_reward`` can load a reward, without loading it.

    Published checkpoints are downloaded from the hub, users' modules are imported, and servers are asked.

    Returns:
        the checkpoints that servers say they have, by address. They may change while others keep the server.

    Raises:
        ConfigError: there is no such reward, and the message lists the known ones; or its server does not answer.
        CheckpointError: a published checkpoint cannot be downloaded.
    """
    served = dict[str, str]()
    for term in _terms(name):
        if is_served(term.name):
            served[term.name] = _ask_server(term.name)
        else:
            _check_local(term.name)
    return served


def load_reward(name: str, device: torch.device | str = "cpu", combination: Combination = "sum") -> Reward:
    """Loads a reward model or a weighted sum of several; this module's docstring has the syntax.

    Args:
        device: device of CLAP models; a user's own class with a method ``to`` is moved there too.
        combination: how the rewards of a sum become one; unless it is "sum", each call must be of one prompt's samples.

    Raises:
        ConfigError: there is no such reward.
        CheckpointError: its weights cannot be read.
        RewardError: its server does not answer.
    """
    terms = _terms(name)
    for term in terms:
        if not is_served(term.name):
            _check_local(term.name)
    rewards = [_on(device, _load_one(term.name)) for term in terms]
    if [term.weight for term in terms] == [1.0]:
        return rewards[0]
    return WeightedReward([term.weight for term in terms], rewards, combination)


def _on(device: torch.device | str, reward: Reward) -> Reward:
    move = getattr(reward, "to", None)
    if callable(move):
        move(device)
    return reward


def _terms(name: str) -> list[Term]:
    # An existing path may contain + and *.
    path = name.removeprefix(_WINDOWS).removeprefix(_LAION)
    return [Term(1.0, name)] if path and Path(path).exists() else parse_terms(name)


def _check_local(name: str) -> None:
    _check_one(name)
    published = name.removeprefix(_WINDOWS).removeprefix(_LAION)
    if published in CHECKPOINTS:
        fetch_checkpoint(published)
        fetch_roberta_tokenizer()


def _check_one(name: str) -> None:
    if name in (*_DETECTORS, _GROUNDER) or _is_clap(name):
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
    return name in CHECKPOINTS or (name.endswith(".pt") and Path(name).is_file())


def _check_prefixed(name: str) -> None:
    inner = name.removeprefix(_WINDOWS)
    if inner.startswith(_LAION):
        if not _is_checkpoint(inner.removeprefix(_LAION)):
            raise ConfigError(f"reward {name!r}: laion: must be followed by an existing .pt file")
        check_laion_installed()
    elif not _is_clap(inner):
        raise ConfigError(f"reward {name!r}: {inner!r} is not a CLAP model, and windows: needs one")


def _check_module(name: str) -> None:
    module, _, attribute = name.partition(":")
    if not attribute:
        known = ", ".join([*_CLAPS, _GROUNDER, *_DETECTORS, *CHECKPOINTS])
        raise ConfigError(f"reward {name!r} is none of {known}, and not a directory, a .pt file or module:Class")
    if module not in sys.modules and not _is_importable(module):
        raise ConfigError(f"reward {name!r}: there is no module {module} to import; is its folder on PYTHONPATH?")
    check_own(name)


def _ask_server(name: str) -> str:
    try:
        return _load_served(name, QUICK_LIMITS).checkpoint
    except RewardError as error:
        raise ConfigError(f"reward {name!r}: {error}; start its server, or correct the address") from None


def _load_served(name: str, limits: Limits) -> Reward:
    address = parse_address(name)
    return ChatReward(address, name, limits) if address.model else HttpReward(name, limits)


def _load_one(name: str) -> Reward:
    if is_served(name):
        return _load_served(name, PATIENT)
    if name in _DETECTORS:
        return DetectorReward(EMBEDDED / "detector", name, _DETECTORS[name])
    if name == _GROUNDER:
        return GrounderReward(EMBEDDED / "grounder", name)
    inner = name.removeprefix(_WINDOWS)
    if inner.startswith(_LAION) or _is_clap(inner):
        return _load_clap(inner, windows=inner != name)
    return load_own(name)


def _load_clap(name: str, windows: bool) -> Reward:
    label = _WINDOWS if windows else ""
    if name in _CLAPS:
        return ClapReward(_CLAPS[name], label + name, windows)
    source = name.removeprefix(_LAION)
    path = fetch_checkpoint(source) if source in CHECKPOINTS else Path(source)
    shown = source if source in CHECKPOINTS else path.resolve().name
    if name.startswith(_LAION):
        return LaionReward(path, label + _LAION + shown, windows)
    return ClapReward(path, label + shown, windows)


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False

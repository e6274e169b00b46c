from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tangoflux.errors import CheckpointError, ConfigError
from tangoflux.rewards import ClapReward, Reward, check_reward, load_reward
from tangoflux.rewards.registry import EMBEDDED


class Loudness:
    """A reward of a user's own."""

    name = "loudness"
    checkpoint = "1"

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        return np.array([np.square(waveform).mean() for waveform in waveforms], np.float64)


class Nameless:
    def __call__(self, prompts: object, waveforms: object, sample_rate_hz: int) -> None: ...


class Mute: ...


class Needy(Loudness):
    def __init__(self, gain: float) -> None: ...


class Deaf(Loudness):
    def __call__(self, prompts: Sequence[str]) -> NDArray[np.float64]:  # type: ignore[override]
        return np.zeros(len(prompts))


class Numbered(Loudness):
    checkpoint = 1  # type: ignore[assignment]


class Unlicensed(Loudness):
    def __init__(self) -> None:
        raise RuntimeError("no licence\nat all")


CONSTANT = 3


def test_a_class_of_ones_own_is_a_reward() -> None:
    check_reward(f"{__name__}:Loudness")
    reward = load_reward(f"{__name__}:Loudness")
    assert isinstance(reward, Reward)
    assert reward(["x"], [np.full((1, 8), 0.5, np.float32)], 16_000) == [0.25]


def test_a_directory_is_a_clap_model_named_after_it(clap_dir: Path) -> None:
    check_reward(str(clap_dir))
    reward = load_reward(str(clap_dir))
    assert isinstance(reward, ClapReward) and reward.name == "tiny-clap"


def test_a_path_that_exists_is_no_sum(clap_dir: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(clap_dir, tmp_path / "0.5*speech+music")
    for prefix in ("", "windows:"):
        check_reward(f"{prefix}{directory}")
        assert load_reward(f"{prefix}{directory}").name == f"{prefix}0.5*speech+music"


def test_the_embedded_names_are_known() -> None:
    claps = ("miniature-clap", "miniature-compositional-clap", "miniature-judge")
    for name in (*claps, "miniature-grounder", "miniature-detector", "miniature-recall"):
        check_reward(name)
        if EMBEDDED.is_dir():
            assert load_reward(name).name == name


def test_a_directory_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    check_reward(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"config\.json is missing: is .* a model directory\?"):
        load_reward(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "miniature-clapp",
            "'miniature-clapp' is none of miniature-clap, .*, and not a directory, a .pt file or module:Class",
        ),
        ("/no/such/place", "'/no/such/place' is none of"),
        ("/no/such/clap.pt", "there is no such file"),
        ("laion:/no/such/clap.pt", "laion: must be followed by an existing .pt file"),
        ("laion:", "laion: must be followed by an existing .pt file"),
        (__file__, "is none of"),
        ("no_such_module:Reward", "there is no module no_such_module to import; is its folder on PYTHONPATH"),
        ("no_such.package:Reward", "there is no module no_such.package"),
        (":Reward", "there is no module  to import"),
        ("tests:", "is none of"),
        ("a b/c:Reward", "there is no module a b/c"),
    ],
)
def test_a_name_that_is_nothing_is_refused_in_one_line(name: str, message: str) -> None:
    for refused in (check_reward, load_reward):
        with pytest.raises(ConfigError, match=message) as caught:
            refused(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("Missing", "has no class Missing"),
        ("CONSTANT", "has no class CONSTANT"),
        ("Mute", "has no name, checkpoint or __call__"),
        ("Needy", "Needy needs arguments; its constructor must have none"),
        ("Deaf", r"cannot be called with \(prompts, waveforms, sample_rate_hz\)"),
    ],
)
def test_a_class_that_is_no_reward_is_refused_before_one_is_made(attribute: str, message: str) -> None:
    for refused in (check_reward, load_reward):
        with pytest.raises(ConfigError, match=message):
            refused(f"{__name__}:{attribute}")


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("Nameless", "has no name, checkpoint or __call__"),
        ("Numbered", "its name and checkpoint must be strings"),
        ("Unlicensed", r"Unlicensed\(\) failed: RuntimeError: no licence$"),
    ],
)
def test_a_class_that_makes_no_reward_is_refused(attribute: str, message: str) -> None:
    check_reward(f"{__name__}:{attribute}")
    with pytest.raises(ConfigError, match=message):
        load_reward(f"{__name__}:{attribute}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("class Mine", "SyntaxError: expected ':'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    (tmp_path / "my_reward.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    for refused in (check_reward, load_reward):
        with pytest.raises(ConfigError, match=f"module my_reward cannot be imported: {message}"):
            refused("my_reward:Mine")

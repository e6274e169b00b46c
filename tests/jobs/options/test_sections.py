from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.options.crpo import RunConfig, load_config
from jobs.options.generate import GenerateOptions
from jobs.options.train import TrainJob
from tangoflux.errors import ConfigError

NOT_UTF8 = os.fsdecode(b"caf\xe9.wav")


@pytest.mark.parametrize("name", [NOT_UTF8, f"{NOT_UTF8}/a.wav", "a\0b.wav"])
def test_a_path_that_cannot_be_noted_down_is_refused(name: str) -> None:
    for make in (
        lambda: TrainJob(output=Path(name), pairs=Path("p")),
        lambda: TrainJob(output=Path("o"), pairs=Path(name)),
        lambda: GenerateOptions(prompt="a dog", output=Path(name)),
        lambda: RunConfig(run_dir=Path(name)),
    ):
        with pytest.raises(ConfigError, match=r"is not UTF-8 text; rename it, or make a link to it"):
            make()


@pytest.mark.parametrize("flag", ["--negative-prompt", "--init-policy", "--reward", "--wandb-project"])
def test_a_text_that_cannot_be_noted_down_is_refused(flag: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{flag} is 'caf.udce9.wav', which is not UTF-8 text; write it in UTF-8$"):
        load_config([flag, NOT_UTF8, "--run-dir", "a"])


def test_the_home_directory_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for options in (TrainJob(output=Path("~/o"), pairs=Path("p")), GenerateOptions(prompt="x", output=Path("~/o.wav"))):
        assert str(options.output).startswith("/home/me/o")
    assert RunConfig(run_dir=Path("~/o")).run_dir == Path("/home/me/o")

"""Examples of the documents, run as they stand there on the miniature, with options appended that make them small."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.docs.pages import REPOSITORY, Block, blocks, commands
from tests.docs.test_commands import program

# Each program also has quick tests of its own. Here the working directory comes first: Ray's workers inherit it.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("directory", "ray_session")]

ALIGNMENT, DATA = (REPOSITORY / "docs" / f"{name}.md" for name in ("alignment", "data-and-pretraining"))

TRAINING = "--epochs 1 --batch-size 4 --learner-threads 1"
SMALL = {
    "jobs/record_soundworld.py": "--num-clips 10",
    "jobs/prepare.py": "",
    "jobs/pretrain.py": f"{TRAINING} --warmup-steps 1 --heldout-clips 1 --num-audio-samples 1 --num-steps 1",
    "jobs/crpo.py": f"{TRAINING} --warmup-steps 0 --heldout-pairs 1 --iterations 1 --prompts-per-iteration 8 "
    "--num-samples 2 --rollout-chunk-prompts 4 --num-steps 1 --heldout-num-prompts 2 --num-audio-samples 1 "
    "--run-dir runs/a",
    "jobs/rollout.py": "--num-samples 2 --num-steps 1",
    "jobs/score.py": "",
    "jobs/train.py": f"{TRAINING} --warmup-steps 0 --heldout-pairs 0",
    "jobs/compare.py": "",
    "jobs/report.py": "",
    "jobs/generate.py": "--num-steps 1",
}
PROMPTS = "a dog barks\na bell rings twice\na drum then a siren\na bird during a hiss\n"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a file of prompts."""
    directory = tmp_path_factory.mktemp("examples")
    (directory / "mine.txt").write_text(PROMPTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        yield directory


def run(page: Path, *beginnings: str) -> None:
    """Runs the first command of the page that begins like this, for each beginning."""
    for beginning in beginnings:
        found = next(command for command in commands(page) if " ".join(command.words).startswith(beginning))
        name, arguments = program(found.words)
        main = importlib.import_module(name.removesuffix(".py").replace("/", ".")).main
        assert main([*arguments, *SMALL[name].split()]) == 0


def block(page: Path, beginning: str) -> Block:
    return next(block for block in blocks(page) if block.text.startswith(beginning))


def test_recordings_become_an_aligned_policy(directory: Path) -> None:
    first = next(blocks(DATA))
    run(DATA, *(" ".join(command.words) for command in commands(DATA) if command.block == first))
    assert (directory / "prepared/a/prepared.json").is_file()
    assert (directory / "pretrained/a/policy/tangoflux.safetensors").is_file()
    assert (directory / "runs/a/policies/v0001").is_dir()


def test_a_run_is_read_compared_and_reported(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("runs/a", "runs/b")
    (directory / "runs/a/report.html").unlink()
    run(ALIGNMENT, "python jobs/compare.py", "python jobs/report.py")
    said = capsys.readouterr().out
    assert "| a |" in said and "| all |" in said
    assert (directory / "runs/a/report.html").is_file()
    exec(block(ALIGNMENT, "import pyarrow").text)


def test_single_stages_work_on_each_others_output(directory: Path) -> None:
    run(ALIGNMENT, "python jobs/rollout.py", "python jobs/score.py", "python jobs/train.py --preferences")
    assert (directory / "out/policy/tangoflux.safetensors").is_file()


def test_a_users_pairs_train_a_policy(directory: Path) -> None:
    (directory / "human.jsonl").write_text(block(ALIGNMENT, '{"prompt"').text)
    (directory / "takes").mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 16_000))
    for name, waveform in zip(("7", "2"), noise, strict=True):
        soundfile.write(f"takes/{name}.wav", waveform, 16_000)
    run(ALIGNMENT, "python jobs/train.py --pairs")
    assert (directory / "out/from-people/tangoflux.safetensors").is_file()


def test_a_policy_generates(directory: Path) -> None:
    shutil.copytree("runs/a/policies/v0001", "runs/a/policies/v0003")
    written = ("out-1.flac", "out-4.flac", "best.flac")
    run(
        ALIGNMENT,
        "tangoflux generate a dog barks, then",
        "tangoflux generate a dog barks twice",
        "tangoflux generate --p",
    )
    assert all((directory / name).is_file() for name in written)
    assert len(list((directory / "folder").glob("*.flac"))) == len(PROMPTS.splitlines())
    exec(block(ALIGNMENT, "from tangoflux").text)

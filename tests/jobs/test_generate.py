from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from jobs.generate import main, run_tangoflux
from jobs.stages.generated_files import weights_sha256
from tangoflux.errors import ConfigError, DataError, RewardError
from tangoflux.model.layout import find_directory

QUICK = ["--duration-s", "1", "--num-steps", "2"]


def audio(file: Path) -> tuple[NDArray[np.float64], int]:
    read: Any = soundfile.read(str(file))
    return read


@pytest.mark.parametrize("suffix", [".flac", ".wav", ".ogg", ".mp3"])
def test_a_prompt_becomes_a_file_of_the_wanted_length(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / "new" / f"dog{suffix}"
    assert main(["a dog barks", str(file), *QUICK]) == 0
    waveform, rate = audio(file)
    assert rate == 16_000
    assert len(waveform) == pytest.approx(16_000, abs=0 if suffix in (".flac", ".wav") else 2500)
    assert np.abs(waveform).max() > 1e-3
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_same_seed_gives_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        main(["a dog barks", str(tmp_path / f"{name}.flac"), *QUICK, "--seed", seed])
    a, b, c = ((tmp_path / f"{name}.flac").read_bytes() for name in "abc")
    assert a == b != c


def test_several_samples_are_numbered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["a dog barks", str(tmp_path / "dog.flac"), *QUICK, "--num-samples", "2"])
    first, second = tmp_path / "dog-1.flac", tmp_path / "dog-2.flac"
    assert capsys.readouterr().out.split() == [str(first), str(second)]
    assert first.read_bytes() != second.read_bytes()


def test_best_of_keeps_the_samples_with_the_highest_rewards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*QUICK, "--num-samples", "2", "--best-of", "4"]
    main(["a dog barks", str(tmp_path / "dog.flac"), *options])
    told = capsys.readouterr().out
    best = [float(value) for value in re.findall(r"miniature-clap (\S+),", told)]
    [rest] = re.findall(r"not kept: (.*)", told)
    main(["a dog barks", str(tmp_path / "all.flac"), *QUICK, "--num-samples", "4", "--best-of", "4"])
    all_four = [float(value) for value in re.findall(r"miniature-clap (\S+),", capsys.readouterr().out)]
    assert all_four == sorted(all_four, reverse=True)
    assert best + [float(value) for value in rest.split()] == all_four
    assert (tmp_path / "dog-1.flac").read_bytes() == (tmp_path / "all-1.flac").read_bytes()


def test_a_file_of_prompts_fills_a_folder_and_the_same_command_again_what_is_missing(tmp_path: Path) -> None:
    bank = tmp_path / "mine.jsonl"
    bank.write_text(
        '{"prompt": "a dog barks", "id": "dog"}\n{"prompt": "a bell rings", "id": "bell", "duration_s": 2}\n'
    )
    command = ["--prompts", str(bank), str(tmp_path / "out"), *QUICK]
    main(command)
    dog, bell = tmp_path / "out" / "dog.flac", tmp_path / "out" / "bell.flac"
    assert [len(audio(file)[0]) for file in (dog, bell)] == [16_000, 32_000]
    kept, written_at = bell.read_bytes(), dog.stat().st_mtime_ns
    bell.unlink()
    main(command)
    assert bell.read_bytes() == kept
    assert dog.stat().st_mtime_ns == written_at


def fill(folder: Path, bank: str, *more: str) -> None:
    bank_file = folder.parent / "mine.txt"
    bank_file.write_text(bank)
    main(["--prompts", str(bank_file), str(folder), *QUICK, *more])


def test_prompts_that_are_appended_are_added_to_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    fill(folder, "a dog barks\n")
    first = (folder / "p000001.flac").stat()
    fill(folder, "a dog barks\na bell rings\n")
    capsys.readouterr()
    fill(folder, "a dog barks\n")
    assert capsys.readouterr().out == f"nothing to do: {folder} has the audio of all prompts\n"
    assert (folder / "p000001.flac").stat() == first
    rows = [json.loads(line) for line in (folder / "generated.jsonl").read_text().splitlines()]
    assert [(row["file"], row["prompt"]) for row in rows] == [
        ("p000001.flac", "a dog barks"),
        ("p000002.flac", "a bell rings"),
    ]


@pytest.mark.parametrize(
    ("bank", "more", "said"),
    [
        ("a dog barks\na bell rings\n", ["--seed", "1"], r"seed was 0 and is 1 now \(and so 1 more\)"),
        (
            "a dog barks\na cat meows\n",
            [],
            r"p000002.flac was made .* prompt was 'a bell rings' and is 'a cat meows' now;",
        ),
        ("a bell rings\na dog barks\n", [], r"p000001.flac was made .*\(and so 1 more\)"),
        ("a dog barks\na bell rings\n", ["--num-steps", "3"], "num_steps was 2 and is 3 now"),
        ("a dog barks\na bell rings\n", ["--guidance-scale", "1"], "guidance_scale was .* and is 1.0 now"),
        ("a dog barks\na bell rings\n", ["--negative-prompt", "rain"], "negative_prompt was '' and is 'rain' now"),
        ("a dog barks\na bell rings\n", ["--duration-s", "0.5"], "duration_s was 1.0 and is 0.5 now"),
        ("a dog barks\na bell rings\n", ["--best-of", "2"], "best_of was None and is 2 now, reward was None"),
    ],
)
def test_audio_that_was_made_from_something_else_is_not_taken_for_the_new_prompts(
    tmp_path: Path, bank: str, more: list[str], said: str
) -> None:
    folder = tmp_path / "out"
    fill(folder, "a dog barks\na bell rings\n")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ConfigError, match=said + ".*--overwrite"):
        fill(folder, bank, *more)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    fill(folder, bank, *more, "--overwrite")
    after = (folder / "p000002.flac").read_bytes()
    fill(folder, bank, *more)
    assert (folder / "p000002.flac").read_bytes() == after


def test_audio_of_unknown_origin_is_not_taken_for_that_of_a_prompt(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "p000001.flac").write_text("mine")
    with pytest.raises(ConfigError, match=r"generated\.jsonl does not say what it was made from"):
        fill(folder, "a dog barks\n")
    assert (folder / "p000001.flac").read_text() == "mine"


@pytest.mark.parametrize("stem", ["\u72ac" * 82, "d" * 251, "\U0001f436" * 62, "a dog\nbarks ", ".hidden", "-", "é"])
def test_every_name_that_a_file_may_have_gets_audio(tmp_path: Path, stem: str) -> None:
    main(["a dog barks", str(tmp_path / f"{stem}.wav"), *QUICK])
    [file] = tmp_path.iterdir()
    assert file.name == f"{stem}.wav" and len(audio(file)[0]) == 16_000


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("\u72ac" * 84 + ".wav", (), "File name too long"),
        ("d" * 300 + ".wav", (), "File name too long"),
        ("d" * 251 + ".wav", ("--num-samples", "2"), "File name too long"),
        ("a/" * 2200 + "d.wav", (), "File name too long"),
        ("file/d.wav", (), "file is not a directory"),
        ("gone/d.wav", (), "leads nowhere"),
        ("gone.wav", (), "leads nowhere"),
        ("dir.wav", ("--overwrite",), "is a directory; name a file in it"),
        ("/proc/d.wav", (), "cannot be used"),
    ],
)
def test_a_name_that_no_file_can_have_is_refused_before_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, more: Sequence[str], said: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dir.wav").mkdir()
    for link in ("gone", "gone.wav"):
        (tmp_path / link).symlink_to("missing")
    monkeypatch.setattr("tangoflux.pipeline.TangoFlux.generate", None)
    with pytest.raises(ConfigError, match=said):
        main(["a dog barks", str(tmp_path / name), *QUICK, *more])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a dog barks", "dog.txt"], "must end in one of .flac"),
        (["dog.flac"], "either a prompt, as the first argument, or --prompts"),
        (["a dog barks", "dog.flac", "--prompts", "mine.txt"], "either a prompt"),
        (["a dog barks", "dog.flac", "--duration-s", "31"], "--duration-s 31 must be at most the policy's 4 s"),
        (
            ["a dog barks", "dog.flac", "--duration-s", "1e-5"],
            "--duration-s is 1e-5: it must be a number of at least 0.001",
        ),
        (["a dog barks", "dog.flac", "--duration-s", "0"], "--duration-s is 0: it must be a number of at least 0.001"),
        (["a dog barks", "dog.flac", "--duration-s", "nan"], "--duration-s is nan: it must be a number"),
        (["a dog barks", "dog.flac", "--num-steps", "0"], "--num-steps is 0: it must be a whole number from 1 to 1000"),
        (["a dog barks", "dog.flac", "--best-of", "101"], "--best-of is 101: it must be a whole number from 1 to 100"),
        (["a dog barks", "dog.flac", "--best-of", "2", "--num-samples", "3"], "--best-of 2 is less than"),
        (["a dog barks", "dog.flac", "--best-of", "2", "--reward", "unknown"], "reward 'unknown' is none of"),
        (["a dog barks", "dog.flac", "--colour", "red"], "unknown option --colour"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)):
        main(arguments)
    assert not list(tmp_path.iterdir())


def test_options_may_stand_before_between_and_after_the_arguments(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.flac" for number in range(3)]
    main(["--overwrite", *QUICK, "a dog barks", str(files[0])])
    main(["a dog barks", *QUICK, str(files[1])])
    main(["a dog barks", str(files[2]), *QUICK])
    assert len({file.read_bytes() for file in files}) == 1


def test_the_program_has_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_tangoflux(["--help"])
    assert "usage: tangoflux generate [PROMPT] OUTPUT" in capsys.readouterr().out
    for arguments in (["generat", "a dog"], ["a dog", "dog.flac"]):
        with pytest.raises(ConfigError, match="did you mean tangoflux generate"):
            run_tangoflux(arguments)
    with pytest.raises(ConfigError, match="must end in one of"):
        run_tangoflux(["generate", "a dog", str(tmp_path / "dog.txt")])


def test_where_nothing_can_be_written_is_known_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a dog barks\n")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is not a directory"):
        main(["--prompts", str(tmp_path / "prompts.txt"), str(tmp_path / "file"), *QUICK])


@pytest.mark.parametrize(
    ("given", "said"),
    [("0.5", r"rewards of shape \(\) for 2 samples"), ("1 / 0", "ZeroDivisionError: division by zero")],
)
def test_a_users_reward_that_does_not_fit_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, said: str
) -> None:
    name = "reward_" + re.sub(r"\W", "", given)
    (tmp_path / f"{name}.py").write_text(
        f"class Mine:\n    name, checkpoint = 'mine', ''\n    def __call__(self, *_):\n        return {given}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RewardError, match=f"reward mine .*{said}"):
        main(["a dog", str(tmp_path / "a.flac"), *QUICK, "--best-of", "2", "--reward", f"{name}:Mine"])


def test_audio_of_a_policy_that_was_replaced_is_not_taken_for_the_new_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = shutil.copytree(find_directory("miniature"), tmp_path / "policy")
    fill(tmp_path / "out", "a dog barks\n", "--policy", str(policy))
    fill(tmp_path / "out", "a dog barks\n")
    assert "nothing to do" in capsys.readouterr().out, "the same weights elsewhere"
    weights = policy / "tangoflux.safetensors"
    save_file({name: tensor * 1.1 for name, tensor in load_file(weights).items()}, weights)
    weights_sha256.cache_clear()
    with pytest.raises(ConfigError, match=r"p000001.flac was made from something else: policy_sha256 was"):
        fill(tmp_path / "out", "a dog barks\n", "--policy", str(policy))


@pytest.mark.parametrize("record", ["{}\n", '{"file": ["p000001.flac"]}\n', '{"file": null}\n'])
def test_a_record_that_says_nothing_of_a_file_is_no_obstacle(tmp_path: Path, record: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "generated.jsonl").write_text(record)
    fill(tmp_path / "out", "a dog barks\n")
    assert (tmp_path / "out" / "p000001.flac").is_file()


def test_a_prompt_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"PROMPT is 'caf.udce9', which is not UTF-8 text"):
        main([os.fsdecode(b"caf\xe9"), str(tmp_path / "a.flac"), *QUICK])


def test_a_file_that_exists_is_replaced_only_on_demand(tmp_path: Path) -> None:
    file = tmp_path / "dog.flac"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="exists; pass --overwrite"):
        main(["a dog barks", str(file), *QUICK])
    assert file.read_text() == "mine"
    main(["a dog barks", str(file), *QUICK, "--overwrite"])
    assert len(audio(file)[0]) == 16_000


def test_a_prompt_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("none.txt")):
        main(["--prompts", str(tmp_path / "none.txt"), str(tmp_path / "out")])

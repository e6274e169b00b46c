from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tangoflux.data.pairs import load_pairs, pair_table
from tangoflux.data.prompts import Prompt
from tangoflux.data.records import latents_array, preference_schema
from tangoflux.errors import DataError
from tests.tangoflux.data.made_audio import encoded, mp3, noise, wav, written
from tests.tiny import tiny_model

MODEL = tiny_model()
POLICY, CODEC = MODEL.policy.config, MODEL.autoencoder.config
FULL = tiny_model(latent_frames="full").policy.config
RATE = CODEC.sampling_rate


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes lines into a manifest beside some files of audio and latents."""
    (tmp_path / "takes").mkdir()
    for name, seconds in (("one.wav", 1.0), ("two.flac", 2.0), ("ten.wav", 10.0)):
        soundfile.write(tmp_path / "takes" / name, np.zeros((round(seconds * RATE), 1)), RATE)
    soundfile.write(tmp_path / "takes" / "sample.wav", np.ones(1), RATE)
    for name, frames in (("a.npy", 16), ("b.npy", 16), ("long.npy", 63)):
        np.save(tmp_path / "takes" / name, np.zeros((frames, 8), np.float16))

    def write(*lines: Any) -> Path:
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (tmp_path / "pairs.jsonl").write_text(text + "\n")
        return tmp_path / "pairs.jsonl"

    return write


def row(chosen: str = "takes/one.wav", rejected: str = "takes/two.flac", **more: Any) -> dict[str, Any]:
    return {"prompt": "a dog barks", "chosen": chosen, "rejected": rejected, **more}


def test_paths_are_relative_to_the_manifest_and_the_chosen_one_gives_the_length(
    manifest: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = load_pairs(
        manifest(row(), "", row(str(tmp_path / "takes/two.flac"), "takes/one.wav")), POLICY, CODEC
    )
    assert first.prompt == Prompt("p000001", "a dog barks", 1.0)
    assert (first.chosen, first.rejected) == (tmp_path / "takes/one.wav", tmp_path / "takes/two.flac")
    assert (first.num_frames, second.num_frames) == (16, 32)
    assert second.prompt.id == "p000003" and second.origin == f"{tmp_path / 'pairs.jsonl'}:3"


def test_a_length_may_be_given_and_is_at_most_what_the_policy_makes(manifest: Callable[..., Path]) -> None:
    file = manifest(row(duration_s=0.5, id="x"), row("takes/ten.wav", id="x"))
    first, second = load_pairs(file, POLICY, CODEC)
    assert (first.prompt.duration_s, first.num_frames) == (0.5, 8)
    assert (second.prompt.duration_s, second.num_frames) == (4.0, 63)
    assert first.prompt.id == second.prompt.id == "x", "people may rate several pairs of a prompt"


def test_latents_give_their_length_and_may_stand_beside_audio(manifest: Callable[..., Path]) -> None:
    file = manifest(row("takes/a.npy", "takes/b.npy"), row("takes/one.wav", "takes/b.npy"))
    for pair in load_pairs(file, POLICY, CODEC):
        assert pair.num_frames == 16 and pair.prompt.duration_s == pytest.approx(1.0, abs=0.07)


def test_a_policy_of_full_length_takes_full_latents_of_any_duration(manifest: Callable[..., Path]) -> None:
    file = manifest(row("takes/long.npy", "takes/one.wav", duration_s=1.0))
    assert load_pairs(file, FULL, CODEC)[0].num_frames == 63
    with pytest.raises(DataError, match=r"a.npy contains latents \(16, 8\), expected \(63, 8\)"):
        load_pairs(manifest(row("takes/a.npy")), FULL, CODEC)


BAD: list[tuple[Any, str]] = [
    ("{not json", "not JSON"),
    ("[1]", "list instead of an object like"),
    ({"prompt": "x", "chosen": "takes/one.wav"}, "no 'rejected' among the keys 'prompt', 'chosen'"),
    ({"prompt": "x", "choosen": "a", "rejected": "b"}, "unknown key 'choosen'; did you mean 'chosen'?"),
    (row(prompt=""), "prompt is ''"),
    (row(chosen=3), "chosen is 3; it must be the path"),  # type: ignore[arg-type]
    (row("takes/absent.wav"), "absent.wav cannot be read as audio: there is no such file"),
    (row("pairs.jsonl"), "pairs.jsonl cannot be read as audio"),
    (row("takes/one.wav", "takes/../takes/one.wav"), "chosen and rejected are the same file"),
    (row("takes/absent.npy"), "absent.npy cannot be read as a numpy array"),
    (row("takes/pickle.npy"), "pickle.npy cannot be read as a numpy array"),
    (row("takes/half.npy"), "half.npy cannot be read as a numpy array"),
    (row("takes/archive.npy"), "archive.npy contains an archive"),
    (row("takes/flat.npy"), r"flat.npy contains int64 \(4,\), expected latents"),
    (row("takes/nan.npy"), "nan.npy contains numbers that are not finite"),
    (row("takes/wide.npy"), r"wide.npy contains latents \(16, 9\), expected \(16, 8\)"),
    (row("takes/one.wav", "takes/long.npy"), r"long.npy contains latents \(63, 8\), expected \(16, 8\): .* for 1 s"),
    (row("takes/sample.wav"), "duration_s is .*; it must be a number of seconds from 0.001 to 4"),
    (row(duration_s=5), "duration_s is 5; it must be a number of seconds from 0.001 to 4"),
    (row(id="../x"), "id is '../x'; it names files"),
]


def write_bad_arrays(folder: Path) -> None:
    np.save(folder / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (folder / "half.npy").write_bytes((folder / "a.npy").read_bytes()[:200])
    with (folder / "archive.npy").open("wb") as stream:
        np.savez(stream, np.zeros(3))
    np.save(folder / "flat.npy", np.arange(4))
    np.save(folder / "nan.npy", np.full((16, 8), np.nan))
    np.save(folder / "wide.npy", np.zeros((16, 9)))


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_line_is_named_with_the_reason(
    manifest: Callable[..., Path], tmp_path: Path, line: Any, message: str
) -> None:
    write_bad_arrays(tmp_path / "takes")
    with pytest.raises(DataError, match=rf"^{tmp_path}/pairs.jsonl:2: .*{message}"):
        load_pairs(manifest(row(), line, row()), POLICY, CODEC)


def test_all_bad_lines_are_named_up_to_a_limit(manifest: Callable[..., Path]) -> None:
    with pytest.raises(DataError) as caught:
        load_pairs(manifest(row(), *[row("takes/absent.wav")] * 30), POLICY, CODEC)
    message = str(caught.value)
    assert all(f"pairs.jsonl:{number}: " in message for number in range(2, 22))
    assert message.endswith("; and 10 more") and "\n" not in message


def test_a_manifest_that_is_none_is_refused(manifest: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl: no such manifest of pairs"):
        load_pairs(tmp_path / "absent.jsonl", POLICY, CODEC)
    with pytest.raises(DataError, match="contains no pairs; write one per line, like "):
        load_pairs(manifest("", " "), POLICY, CODEC)
    with pytest.raises(DataError, match="not UTF-8 text"):
        load_pairs(tmp_path / "takes" / "a.npy", POLICY, CODEC)


def test_a_pair_becomes_a_preference_row(manifest: Callable[..., Path]) -> None:
    pairs = load_pairs(manifest(row()), POLICY, CODEC)
    table = pair_table(pairs, [np.ones((16, 8), np.float32)], [np.zeros((16, 8), np.float32)], preference_schema(63, 8))
    values = table.drop_columns(["chosen_latents", "rejected_latents", "created_at"]).to_pylist()[0]
    assert {key: value for key, value in values.items() if value is not None} == {
        "iteration": 1,
        "prompt_id": "p000001",
        "prompt": "a dog barks",
        "duration_s": 1.0,
        "num_frames": 16,
        "reward_model": "manifest",
    }
    assert latents_array(table["chosen_latents"]).sum() == 16 * 8


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.wav", wav(samples=16_000)[:-2], "ends before its header says"),
        ("a.flac", written("FLAC")[:-100], "is damaged, or ends before its header says"),
        ("a.mp3", mp3(1.0, xing=False)[:-50], "ends before its header says"),
        ("a.raw", b"no audio", "cannot be read as audio: Format not recognised"),
        ("a.wav", wav(rate=2_000_000_000), "has a sample rate of 2,000,000,000 Hz"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_before_anything_starts(
    manifest: Callable[..., Path], tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"pairs.jsonl:1: .*{name} {message}"):
        load_pairs(manifest(row(rejected=name)), POLICY, CODEC)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.raw", wav(samples=16_000)),
        ("a.wav", wav(0xFFFF_FFFF, 0xFFFF_FFFF, samples=16_000)),
        ("a.flac", encoded("flac", "flac", noise(1.0, 16_000), 16_000, to_pipe=True)),
        ("a.mp3", mp3(1.0, 16_000, xing=False)),
    ],
)
def test_a_file_whose_header_does_not_say_how_long_it_is_has_its_length(
    manifest: Callable[..., Path], tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    (pair,) = load_pairs(manifest(row(name)), POLICY, CODEC)
    assert pair.prompt.duration_s == pytest.approx(1.0, abs=0.1)

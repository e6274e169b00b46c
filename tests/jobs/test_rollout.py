"""jobs/rollout.py on a random tiny policy, in one real Ray session."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.dataset as ds
import pytest
import soundfile
import torch

from actors.storage.samples import read_samples
from actors.storage.shards import ShardWriter
from actors.workers.chunk import rollout_chunks
from actors.workers.rollout import RolloutWorker
from jobs.rollout import main
from tangoflux.data.prompts import load_prompts
from tangoflux.data.records import canonical, canonical_sha256, latents_array
from tangoflux.errors import CheckpointError, ConfigError, DataError, ResourceError
from tangoflux.pipeline import TangoFlux
from tangoflux.sampling_params import MINIATURE_PARAMS, SamplingParams


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [f'{{"prompt": "a dog barks {n} times", "duration_s": {0.5 + 0.25 * n}, "id": "d{n}"}}' for n in range(5)]
    path.write_text("\n".join(rows))
    return path


def options(policy: Path, prompts: Path, output: Path, *more: str) -> list[str]:
    values = {
        "--policy": policy,
        "--prompts": prompts,
        "--output": output,
        "--num-samples": 3,
        "--num-steps": 2,
        "--rollout-chunk-prompts": 2,
        "--policy-version": 4,
        "--seed": 7,
    }
    return [*(str(part) for pair in values.items() for part in pair), *more]


@pytest.fixture(scope="module")
def finished(ray_session: None, tmp_path_factory: pytest.TempPathFactory, tiny_policy_dir: Path, prompts: Path) -> Path:
    """The output directory of a job that also wrote audio."""
    folder = tmp_path_factory.mktemp("rollouts")
    more = ("--audio", str(folder / "audio"), "--rollout-workers", "1")
    assert main(options(tiny_policy_dir, prompts, folder / "shards", *more)) == 0
    return folder


@pytest.mark.ray
def test_the_shards_are_those_of_an_iteration_but_not_scored(
    finished: Path, tiny_policy_dir: Path, prompts: Path
) -> None:
    shards = ShardWriter(finished / "shards")
    params = SamplingParams(2, MINIATURE_PARAMS.guidance_scale, "")
    worker = RolloutWorker(tiny_policy_dir, params, policy_version=4, precision="auto")
    chunks = rollout_chunks(load_prompts(prompts, 1.0, 4.0), 1, 7, 3, 2)
    assert sorted(shards.parts()) == [chunk.index for chunk in chunks] == [0, 1, 2]
    for chunk in chunks:
        found, expected = map(canonical, (shards.read_part(chunk.index, verify=True), worker.sample(chunk).rows))
        # What else this process has done can change the last bits of what it computes.
        computed = ["latents", "rms", "peak"]
        assert found.drop_columns(computed).equals(expected.drop_columns(computed))
        ours, theirs = (latents_array(table["latents"]) for table in (found, expected))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.ray
def test_no_row_has_a_reward_and_all_are_readable_as_a_dataset(finished: Path) -> None:
    table = ds.dataset(finished / "shards", format="parquet").to_table()
    assert len(table) == 5 * 3 and table["reward"].null_count == 15
    assert set(table["failure"].to_pylist()) == {"not scored"} and set(table["reward_model"].to_pylist()) == {""}
    assert (table["rms"].to_numpy() > 0).all()


@pytest.mark.ray
def test_every_sample_can_be_listened_to(finished: Path, tiny_policy_dir: Path) -> None:
    table = ShardWriter(finished / "shards").read()
    files = {sample.prompt_id: finished / "audio" / sample.file for sample in read_samples(finished / "audio")}
    assert len(files) == 15
    row = 4
    sample = {name: table[name][row].as_py() for name in ("prompt_id", "sample_index", "num_frames", "duration_s")}
    latents = latents_array(table["latents"])[row, : sample["num_frames"]]
    codec = TangoFlux.from_pretrained(tiny_policy_dir).autoencoder
    expected = codec.decode_rows([torch.from_numpy(latents.copy())], [sample["duration_s"]])[0]
    heard, rate = soundfile.read(files[f"{sample['prompt_id']}-{sample['sample_index']}"], always_2d=True)
    assert rate == 16_000 and heard.T.shape == expected.shape
    np.testing.assert_allclose(heard.T, expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.ray
def test_the_same_command_again_does_only_what_is_missing(
    finished: Path, tiny_policy_dir: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = ShardWriter(finished / "shards")
    before = canonical_sha256(shards.read())
    first, lost, last = shards.files()
    times = [file.stat().st_mtime_ns for file in (first, last)]
    lost.unlink()
    assert main(options(tiny_policy_dir, prompts, finished / "shards", "--rollout-workers", "2")) == 0
    assert "(6 samples)" in capsys.readouterr().out
    assert canonical_sha256(shards.read(verify=True)) == before
    assert [file.stat().st_mtime_ns for file in (first, last)] == times
    assert main(options(tiny_policy_dir, prompts, finished / "shards")) == 0
    assert "samples)" not in capsys.readouterr().out


@pytest.mark.ray
def test_other_options_for_the_same_directory_are_refused(finished: Path, tiny_policy_dir: Path, prompts: Path) -> None:
    with pytest.raises(ConfigError, match=r"was started with other options: seed is 7 there and 8 now; choose another"):
        main([*options(tiny_policy_dir, prompts, finished / "shards"), "--seed", "8"])


@pytest.mark.ray
@pytest.mark.parametrize(
    "edit", [("a dog barks 1 times", "a cat meows"), ('"duration_s": 0.5', '"duration_s": 0.6'), ('"d4"', '"d9"')]
)
def test_rollouts_of_other_prompts_are_not_taken_for_those_of_an_edited_file(
    finished: Path, tiny_policy_dir: Path, prompts: Path, edit: tuple[str, str]
) -> None:
    kept = prompts.read_text()
    prompts.write_text(kept.replace(*edit))
    try:
        with pytest.raises(ConfigError, match=r"shards has rollouts of other prompts: restore the file of --prompts"):
            main(options(tiny_policy_dir, prompts, finished / "shards"))
    finally:
        prompts.write_text(kept)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["--num-prompts", "6"], ConfigError, "--num-prompts 6 is more than the 5 prompts"),
        (["--prompts", "nowhere.txt"], DataError, r"nowhere\.txt: no such prompt file"),
        (["--policy", "jobs"], CheckpointError, "config.json is missing"),
        (["--num-samples", "0"], ConfigError, "a whole number from 1 to 1000"),
        (["--output", "pyproject.toml/x"], ConfigError, "cannot be used: .*pyproject.toml is not a directory"),
        (["--config", "default"], ConfigError, "--config default: no such file"),
        (["--promts", "x"], ConfigError, "unknown option --promts; did you mean --prompts"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path,
    tiny_policy_dir: Path,
    prompts: Path,
    more: Sequence[str],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        main(options(tiny_policy_dir, prompts, tmp_path / "new", *more))
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_noticed_before_anything_is_written(
    tmp_path: Path, tiny_policy_dir: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.capacity.plan.shutil.disk_usage", lambda place: SimpleNamespace(free=30_000))  # pyright: ignore
    with pytest.raises(
        ResourceError, match=r"needs 3\d\.\d kB of disk, but 30 kB are free at .*: choose another --output"
    ):
        main(options(tiny_policy_dir, prompts, tmp_path / "new"))
    assert not list(tmp_path.iterdir())


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path, tiny_policy_dir: Path, prompts: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="is not empty; choose another --output"):
        main(options(tiny_policy_dir, prompts, tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("rollout", "--output is required: directory to write the shards to"),
        ("score", "--rollouts is required: "),
        ("train", "--output is required: "),
    ],
)
def test_a_missing_option_is_one_line(job: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}.*$"):
        import_module(f"jobs.{job}").main([])

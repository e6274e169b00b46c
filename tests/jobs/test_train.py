"""jobs/train.py on a random tiny policy: real Ray, real DeepSpeed, stored pairs and users' own files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from safetensors.torch import load_file

from actors.storage.shards import ShardWriter
from jobs.train import main
from tangoflux.data.preferences import make_pairs
from tangoflux.data.records import build_table, rollout_schema
from tangoflux.errors import CheckpointError, ConfigError, DataError, ResourceError
from tangoflux.pipeline import TangoFlux
from tests.tiny import WORDS

PAIRS = 9


def random_pairs(directory: Path, scale: float = 1.0, as_rollouts: bool = False) -> Path:
    """Preference shards of random rollouts of half a second, in two parts, or these rollouts."""
    rng = np.random.default_rng(0)
    for part, prompts in enumerate((range(5), range(5, PAIRS))):
        rows = [(prompt, k) for prompt in prompts for k in range(2)]
        schema = rollout_schema(63, 8)
        columns: dict[str, Sequence[Any]] = {name: [None] * len(rows) for name in schema.names}
        columns |= {
            "iteration": [1] * len(rows),
            "prompt_id": [f"p{prompt}" for prompt, _ in rows],
            "sample_index": [k for _, k in rows],
            "prompt": [WORDS[prompt % 3] for prompt, _ in rows],
            "duration_s": [0.5] * len(rows),
            "num_frames": [8] * len(rows),
            "latents": [(scale * rng.normal(size=(8, 8))).astype(np.float32) for _ in rows],
            "reward": [float(k) for _, k in rows],
        }
        table = build_table(columns, schema)
        ShardWriter(directory).write(part, table if as_rollouts else make_pairs(table)[0])
    return directory


def options(policy: Path, output: Path, *more: object) -> list[str]:
    values = {
        "--init-policy": policy,
        "--output": output,
        "--epochs": 2,
        "--batch-size": 4,
        "--warmup-steps": 1,
        "--heldout-pairs": 1,
        "--learner-threads": 1,
        "--learning-rate": 1e-3,
    }
    return [str(part) for part in (*(part for pair in values.items() for part in pair), *more)]


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_pairs(tmp_path_factory.mktemp("preferences"))


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    """A manifest of four pairs: stereo at 44.1 kHz, mono at 16 kHz, latents, and one of each."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "mine"
    folder.mkdir()
    soundfile.write(folder / "a.wav", rng.normal(0, 0.1, (44_100, 2)), 44_100)
    soundfile.write(folder / "b.flac", rng.normal(0, 0.1, 20_000), 16_000)
    for name in ("c.npy", "d.npy"):
        np.save(folder / name, rng.normal(size=(16, 8)).astype(np.float16))
    sides = [("a.wav", "b.flac"), ("b.flac", "a.wav"), ("c.npy", "d.npy"), ("a.wav", "d.npy")]
    rows = [{"prompt": WORDS[0], "chosen": chosen, "rejected": rejected} for chosen, rejected in sides]
    (folder / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rated.jsonl"


def changed_tensors(policy: Path, other: Path) -> set[str]:
    first, second = (load_file(directory / "tangoflux.safetensors") for directory in (policy, other))
    return {key for key in first if not first[key].equal(second[key])}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_policy_is_trained_on_stored_pairs(
    tiny_policy_dir: Path, preferences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "policies" / "new"
    assert main(options(tiny_policy_dir, output, "--preferences", preferences)) == 0
    trained = changed_tensors(tiny_policy_dir, output)
    assert trained and not any(key.startswith("text_encoder.") for key in trained)
    assert np.isfinite(TangoFlux.from_pretrained(output).generate("a dog barks", 0.5, num_steps=1)[0][0]).all()
    report = json.loads((output / "training.json").read_text())
    assert (report["pairs"], report["steps"]) == ((PAIRS - 1) // 2, 2) and report["options"]["learner"]["epochs"] == 2
    assert report["end"]["margin"] != report["start"]["margin"] == 0
    assert len((output / "steps.jsonl").read_text().splitlines()) == 2
    said = capsys.readouterr().out
    for figure in ("winner loss", "loser loss", "margin", "implicit accuracy", "held-out pair accuracy", str(output)):
        assert figure in said
    assert list(output.parent.iterdir()) == [output], "nothing else is left"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_policy_is_trained_on_all_samples_of_stored_rollouts(
    tiny_policy_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rollouts, output = random_pairs(tmp_path / "rollouts", as_rollouts=True), tmp_path / "new"
    more = ("--rollouts", rollouts, "--objective", "expert_iteration")
    assert main(options(tiny_policy_dir, output, *more)) == 0
    report = json.loads((output / "training.json").read_text())
    assert report["pairs"] == (PAIRS - 1) // 2 and set(report["grad_norm"]) == {"expert", "winner"}
    assert report["end"]["winner"] < report["start"]["winner"] and report["end"]["margin"] != 0
    assert "9 groups from " in capsys.readouterr().out


def test_rollouts_that_cannot_be_trained_on_are_refused_before_anything_starts(
    tiny_policy_dir: Path, tmp_path: Path
) -> None:
    rollouts = ShardWriter(random_pairs(tmp_path / "rollouts", as_rollouts=True)).read()
    unscored = rollouts.set_column(
        rollouts.column_names.index("reward"), "reward", pa.nulls(len(rollouts), pa.float64())
    )
    schema = rollout_schema(63, 4)
    columns = {name: rollouts[name].to_pylist() for name in schema.names}
    columns["latents"] = [np.zeros((8, 4))] * len(rollouts)
    for name, table, message in (
        ("unscored", unscored, "0 pairs of 9 prompts.*there is nothing to train on; jobs/score.py"),
        ("other", build_table(columns, schema), "the latents have 4 channels, the policy 8"),
    ):
        ShardWriter(tmp_path / name).write(0, table)
        with pytest.raises(DataError, match=message):
            main(options(tiny_policy_dir, tmp_path / "new", "--rollouts", tmp_path / name, "--objective", "dgpo"))
    with pytest.raises(DataError, match="rollouts holds rollouts; give it as --rollouts"):
        main(options(tiny_policy_dir, tmp_path / "new", "--preferences", tmp_path / "rollouts"))
    with pytest.raises(ConfigError, match="--top-k 3 is more than the 2 samples of a group"):
        more = ("--rollouts", tmp_path / "rollouts", "--objective", "expert_iteration", "--top-k", 3)
        main(options(tiny_policy_dir, tmp_path / "new", *more))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_policy_is_trained_on_a_users_own_audio_and_latents(
    tiny_policy_dir: Path, rated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new"
    output.mkdir()
    assert main(options(tiny_policy_dir, output, "--pairs", rated, "--objective", "dpo_fm")) == 0
    assert changed_tensors(tiny_policy_dir, output)
    assert json.loads((output / "training.json").read_text())["pairs"] == 4
    assert "encoding · done" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "new"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_training_whose_last_step_fails_goes_on_from_there_to_the_same_weights(
    tiny_policy_dir: Path, rated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = {name: options(tiny_policy_dir, tmp_path / name, "--pairs", rated) for name in ("failing", "other")}

    def full(*_: object) -> None:
        raise ResourceError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(ResourceError) as caught:
        patch.setattr("jobs.stages.train.publish", full)
        main(commands["failing"])
    kept = tmp_path / "failing" / ".training"
    assert caught.value.__notes__ == [f"what was computed is kept in {kept}", "run the same command again to resume"]
    with monkeypatch.context() as patch:
        patch.setattr("jobs.stages.train.open_pool", full)  # the pairs are encoded
        main(commands["failing"])
    main(commands["other"])
    assert not changed_tensors(tmp_path / "failing", tmp_path / "other")
    steps = [(tmp_path / name / "steps.jsonl").read_text().count("\n") for name in commands]
    assert steps == [2, 2] and not kept.exists()


def test_every_bad_line_of_a_manifest_is_named_before_anything_starts(
    tiny_policy_dir: Path, rated: Path, tmp_path: Path
) -> None:
    lines = rated.read_text().splitlines()
    lines[1] = lines[1].replace("a.wav", "absent.wav")
    lines[3] = lines[3].replace("chosen", "choosen")
    rated.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"rated.jsonl:2: .*no such file; .*rated.jsonl:4: unknown key 'choosen'"):
        main(options(tiny_policy_dir, tmp_path / "new", "--pairs", rated))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_training_that_fails_leaves_nothing(tiny_policy_dir: Path, tmp_path: Path) -> None:
    broken = random_pairs(tmp_path / "broken", scale=np.nan)
    with pytest.raises(DataError, match="chosen_latents holds values that are not finite"):
        main(options(tiny_policy_dir, tmp_path / "new", "--preferences", broken))
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ([], ConfigError, "give either --preferences or --rollouts, a directory of shards, or --pairs, your own file"),
        (["--preferences", "a", "--pairs", "b"], ConfigError, "give either"),
        (["--rollouts", "a", "--pairs", "b"], ConfigError, "give either"),
        (["--rollouts", "nowhere"], DataError, "--rollouts nowhere holds no shards"),
        (
            ["--pairs", "x", "--top-k", "2"],
            ConfigError,
            "--top-k 2 has no meaning for --objective crpo",
        ),
        (["--preferences", "nowhere"], DataError, "--preferences nowhere holds no shards"),
        (["--pairs", "nowhere.jsonl"], DataError, "nowhere.jsonl: no such manifest of pairs"),
        (["--init-policy", "nowhere", "--pairs", "x"], CheckpointError, "nowhere is not a model directory"),
    ],
)
def test_bad_input_is_refused(
    tiny_policy_dir: Path, tmp_path: Path, more: Sequence[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        main(options(tiny_policy_dir, tmp_path / "new", *more))
    assert not list(tmp_path.iterdir())


def test_shards_without_a_pair_are_refused_before_anything_starts(tiny_policy_dir: Path, tmp_path: Path) -> None:
    pairs = ShardWriter(random_pairs(tmp_path / "pairs")).read()
    ShardWriter(tmp_path / "empty").write(0, pairs.slice(0, 0))
    with pytest.raises(DataError, match="empty holds neither preference pairs nor rollouts: there is nothing"):
        main(options(tiny_policy_dir, tmp_path / "new", "--preferences", tmp_path / "empty"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--warmup-steps", 4), "--warmup-steps 4 is not below the 2 steps of 9 pairs"),
        (("--learner-workers", 5), "4 pairs in a batch are less than one for each of --learner-workers 5"),
    ],
)
def test_too_few_pairs_for_the_options_are_refused(
    tiny_policy_dir: Path, tmp_path: Path, preferences: Path, more: Sequence[object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        main(options(tiny_policy_dir, tmp_path / "new", "--preferences", preferences, *more))


def test_an_output_that_holds_something_is_left_alone(tiny_policy_dir: Path, tmp_path: Path, preferences: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(ConfigError, match="is not empty; choose another --output"):
        main(options(tiny_policy_dir, tmp_path, "--preferences", preferences))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]

"""jobs/score.py on rollouts of a random tiny policy, in one real Ray session."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from actors.storage.shards import ShardWriter
from actors.workers.chunk import rollout_chunks
from actors.workers.messages import RolloutBatch
from actors.workers.reward import RewardWorker
from actors.workers.rollout import RolloutWorker
from jobs.score import main
from tangoflux.data.preferences import make_pairs
from tangoflux.data.prompts import Prompt
from tangoflux.data.records import canonical_sha256
from tangoflux.errors import CheckpointError, ConfigError, DataError, RewardError
from tangoflux.reward_combination import Combination
from tangoflux.sampling_params import SamplingParams
from tests.tables import rollouts

LOUDNESS, MOODY = "tests.actors.fake_rewards:Loudness", "tests.actors.fake_rewards:Moody"
BOTH = f"2*{LOUDNESS}+1*tests.actors.fake_rewards:Peak"
TEXTS = ("a dog barks", "nan bells ring", "a siren wails", "a bird chirps", "raise a drum")


@pytest.fixture(scope="module")
def batches(tiny_policy_dir: Path) -> list[RolloutBatch]:
    """Five prompts with three samples each, in three chunks."""
    prompts = [Prompt(f"p{number}", text, 0.5 + 0.5 * number) for number, text in enumerate(TEXTS)]
    worker = RolloutWorker(tiny_policy_dir, SamplingParams(2, 3.0, ""))
    return [worker.sample(chunk) for chunk in rollout_chunks(prompts, 2, 0, 3, 2)]


@pytest.fixture(scope="module")
def stored(batches: list[RolloutBatch], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Them as jobs/rollout.py stores them."""
    directory = tmp_path_factory.mktemp("stored") / "shards"
    for batch in batches:
        ShardWriter(directory).write(batch.part, batch.rows)
    return directory


def options(policy: Path, stored: Path, output: Path, *more: str) -> list[str]:
    combined = {"--reward": BOTH, "--reward-combination": "normalised"}
    values = {"--policy": policy, "--rollouts": stored, "--output": output, **combined}
    return [*(str(part) for pair in values.items() for part in pair), *more]


@pytest.fixture(scope="module")
def finished(ray_session: None, tmp_path_factory: pytest.TempPathFactory, tiny_policy_dir: Path, stored: Path) -> Path:
    output = tmp_path_factory.mktemp("scored") / "out"
    assert main(options(tiny_policy_dir, stored, output)) == 0
    return output


def scored_at_once(batches: list[RolloutBatch], reward: str, combination: Combination = "normalised") -> list[pa.Table]:
    """What a run stores, whose reward workers get the waveforms from the rollout workers."""
    worker = RewardWorker({"reward": reward}, combination=combination)
    return [worker.score_to_rows(batch).rows for batch in batches]


@pytest.mark.ray
def test_rollouts_and_pairs_are_those_of_a_run(finished: Path, batches: list[RolloutBatch]) -> None:
    for part, table in enumerate(scored_at_once(batches, BOTH)):
        ours = ShardWriter(finished / "rollouts").read_part(part, verify=True)
        assert canonical_sha256(ours) == canonical_sha256(table)
        pairs = ShardWriter(finished / "preferences").read_part(part, verify=True)
        assert canonical_sha256(pairs) == canonical_sha256(make_pairs(table)[0])
    assert len(ShardWriter(finished / "preferences").read()) == 5


@pytest.mark.ray
def test_the_same_command_again_makes_only_the_pairs_that_are_missing(
    finished: Path, tiny_policy_dir: Path, stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preferences = ShardWriter(finished / "preferences")
    before = canonical_sha256(preferences.read())
    preferences.files()[2].unlink()
    assert main(options(tiny_policy_dir, stored, finished)) == 0
    said = capsys.readouterr().out
    assert "scoring" not in said and "\n5 pairs of 5 prompts\n" in said
    assert canonical_sha256(preferences.read(verify=True)) == before


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_reward_that_fails_too_often_stops_the_job_and_more_failures_may_be_allowed_then(
    tmp_path: Path,
    tiny_policy_dir: Path,
    stored: Path,
    batches: list[RolloutBatch],
    capsys: pytest.CaptureFixture[str],
) -> None:
    moody = options(tiny_policy_dir, stored, tmp_path / "out", "--reward", MOODY, "--max-dropped-share")
    with pytest.raises(
        RewardError, match=r"the reward failed for [12] of 5 groups, more than the allowed share of 0\.1"
    ):
        main([*moody, "0.1"])
    scored, preferences = (ShardWriter(tmp_path / "out" / name) for name in ("rollouts", "preferences"))
    assert scored.parts() and scored.parts() == preferences.parts()
    times = {file: file.stat().st_mtime_ns for file in scored.files()}
    assert main([*moody, "0.5"]) == 0
    said = capsys.readouterr().out
    assert "3 pairs of 5 prompts; 2 dropped (" in said
    assert "1 x FileNotFoundError: no ... at ..., really" in said and "1 x the reward is not a finite number" in said
    assert preferences.read()["prompt_id"].to_pylist() == ["p0", "p2", "p3"]
    assert all(file.stat().st_mtime_ns == time for file, time in times.items()), "what was scored stays"
    for part, table in enumerate(scored_at_once(batches, MOODY)):
        assert canonical_sha256(scored.read_part(part, verify=True)) == canonical_sha256(table)


@pytest.mark.ray
def test_other_options_for_the_same_directory_are_refused(finished: Path, tiny_policy_dir: Path, stored: Path) -> None:
    with pytest.raises(ConfigError, match=r"other options: rewards.name is '.*Peak' there and '.*Moody' now"):
        main(options(tiny_policy_dir, stored, finished, "--reward", MOODY))


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["--rollouts", "nowhere"], DataError, r"--rollouts nowhere holds no shards: is it what a run, jobs/rollout"),
        (["--reward", "best-clap"], ConfigError, "reward 'best-clap' is none of"),
        (["--policy", "nowhere"], CheckpointError, "nowhere is not a model directory"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_policy_dir: Path, stored: Path, more: Sequence[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        main(options(tiny_policy_dir, stored, tmp_path / "out", *more))
    assert not list(tmp_path.iterdir())


def test_the_directory_above_the_shards_is_refused_with_a_hint(
    tmp_path: Path, tiny_policy_dir: Path, stored: Path
) -> None:
    with pytest.raises(DataError, match=f"holds no shards; did you mean {stored}"):
        main(options(tiny_policy_dir, stored.parent, tmp_path / "out"))


@pytest.mark.ray
def test_shards_of_something_else_are_refused(
    tmp_path: Path, tiny_policy_dir: Path, finished: Path, stored: Path
) -> None:
    with pytest.raises(DataError, match=r"part-00000.parquet contains no rollouts: it has no columns sample_index"):
        main(options(tiny_policy_dir, finished / "preferences", tmp_path / "out"))
    ShardWriter(tmp_path / "narrow").write(0, rollouts({("a", 0): 1.0, ("a", 1): 2.0}))
    with pytest.raises(DataError, match="holds latents of 2 channels, the codec of --policy has 8"):
        main(options(tiny_policy_dir, tmp_path / "narrow", tmp_path / "out"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_shard_that_was_changed_is_refused_without_a_traceback_of_the_worker(
    tmp_path: Path, tiny_policy_dir: Path, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed: list[Exception] = []
    monkeypatch.setattr("ray._private.worker._unhandled_error_handler", printed.append)
    monkeypatch.delenv("RAY_IGNORE_UNHANDLED_ERRORS", raising=False)
    shutil.copytree(stored, tmp_path / "changed")
    file = tmp_path / "changed" / "part-00001.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="was changed after it was written"):
        main(options(tiny_policy_dir, tmp_path / "changed", tmp_path / "out"))
    time.sleep(1)  # Ray prints what nobody has asked for after a while
    assert not printed

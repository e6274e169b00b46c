"""Whole runs of jobs/crpo.py on a random tiny policy: real Ray, real DeepSpeed, real files."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from safetensors.torch import load_file

from actors.pools.stream import Stream
from actors.storage.shards import ShardWriter
from actors.workers.messages import WrittenShard
from jobs.crpo import main
from tangoflux.data.records import canonical_sha256, is_latents
from tangoflux.errors import RewardError, TangoFluxError

pytestmark = pytest.mark.ray

REPOSITORY = Path(__file__).resolve().parents[2]
LOUDNESS = "tests.integration.rewards:Loudness"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    animals = ("dog barks", "bell rings", "bird sings", "siren wails")
    path.write_text("".join(f"a {animal} then number {index}\n" for index in range(3) for animal in animals))
    return path


def options(policy: Path, prompts: Path, run_dir: Path, *more: str) -> list[str]:
    values = {
        "--init-policy": policy,
        "--prompts": prompts,
        "--heldout-prompts": prompts,
        "--run-dir": run_dir,
        "--reward": LOUDNESS,
        "--judge": LOUDNESS,
        "--detector": LOUDNESS,
        "--iterations": 1,
        "--prompts-per-iteration": 8,
        "--num-samples": 3,
        "--num-steps": 2,
        "--duration-s": 0.5,
        "--rollout-chunk-prompts": 3,
        "--heldout-num-prompts": 4,
        "--num-audio-samples": 2,
        "--epochs": 2,
        "--batch-size": 4,
        "--warmup-steps": 1,
        "--heldout-pairs": 1,
        "--learner-threads": 1,
    }
    flags = [str(part) for pair in values.items() for part in pair]
    return [*flags, *more]


def events(run_dir: Path, kind: str) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


def before_close(metrics: str, iteration: int) -> str:
    """The metrics of a run whose driver died after it published the policy of ``iteration``, before it closed it."""
    lines = metrics.splitlines(keepends=True)
    [close] = [
        number
        for number, line in enumerate(lines)
        if (row := json.loads(line))["event"] == "iteration" and row["iteration"] == iteration
    ]
    return "".join(lines[:close])


def table(run_dir: Path, part: str, iteration: int = 1) -> pa.Table:
    return ShardWriter(run_dir / part / f"i{iteration:04d}").read(verify=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_policy_dir: Path, prompts: Path) -> Path:
    """A run of one iteration with two rollout workers that starts Ray itself; the other runs share a session."""
    run_dir = tmp_path_factory.mktemp("runs") / "first"
    assert main(options(tiny_policy_dir, prompts, run_dir, "--rollout-workers", "2")) == 0
    return run_dir


def test_a_run_writes_all_its_outputs(finished: Path) -> None:
    assert [row["iteration"] for row in events(finished, "iteration")] == [0, 1]
    assert json.loads((finished / "policies" / "latest.json").read_text())["version"] == 1
    assert len(table(finished, "rollouts")) == 8 * 3
    assert len(table(finished, "preferences")) == 8
    assert len(list((finished / "samples").glob("i*/*.flac"))) == 2 * 2
    assert list((finished / "tensorboard").iterdir())
    assert "<html" in (finished / "report.html").read_text()


def test_an_iterations_event_has_the_figures_of_every_stage(finished: Path) -> None:
    event = events(finished, "iteration")[1]
    assert set(event["heldout"]) == {"reward", "judge", "exact"}  # type: ignore[arg-type]
    entry = {"mean", "se", "delta", "delta_se", "step", "step_se"}
    assert set(event["heldout"]["reward"]) == entry  # type: ignore[index]
    assert event["pairs"] == {"made": 8, "tied": 0, "dropped": 0, "reasons": {}}
    assert set(event["loss"]) == {"start", "end"}  # type: ignore[arg-type]
    assert {"group_spread", "diversity", "silent_share", "clipped_share", "heldout_pair_accuracy"} <= set(event)
    assert {"rollouts", "learner", "held-out prompts"} <= set(event["seconds"])  # type: ignore[arg-type]


def test_the_base_policys_change_from_itself_is_zero(finished: Path) -> None:
    base = events(finished, "iteration")[0]["heldout"]["reward"]  # type: ignore[index]
    assert (base["delta"], base["delta_se"]) == (0.0, 0.0)


def test_only_trained_weights_change_between_versions(finished: Path) -> None:
    first, second = (load_file(finished / "policies" / f"v000{v}" / "tangoflux.safetensors") for v in (0, 1))
    changed = {key for key in first if not first[key].equal(second[key])}
    assert changed
    assert not any(key.startswith("text_encoder.") for key in changed)
    assert all(any(key.startswith(part) for key in changed) for part in ("transformer.", "fc.", "duration_emebdder."))


def test_what_one_worker_makes_on_a_resume_is_what_two_made_and_no_latents_pass_through_the_driver(
    finished: Path, ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    shutil.rmtree(run_dir / "policies" / "v0001")
    for part in (1, 2):
        (run_dir / "rollouts" / "i0001" / f"part-{part:05d}.parquet").unlink()
    (run_dir / "preferences" / "i0001" / ".manifest.jsonl").unlink()
    metrics = run_dir / "metrics.jsonl"
    metrics.write_text(before_close(metrics.read_text(), 1))
    # This process is the driver; what its workers do is not patched.
    read_shard, values, received = ShardWriter.read_shard, Stream.values, list[WrittenShard]()

    def read(self: ShardWriter, *arguments: Any, **options: Any) -> pa.Table:
        table = read_shard(self, *arguments, **options)
        assert not any(is_latents(field.type) for field in table.schema), self.directory
        return table

    def recorded(self: Stream[Any]) -> Iterator[tuple[Any, Any]]:
        for key, value in values(self):
            received.extend([value] if isinstance(value, WrittenShard) else [])
            yield key, value

    monkeypatch.setattr(ShardWriter, "read_shard", read)
    monkeypatch.setattr(Stream, "values", recorded)
    assert main(["--run-dir", str(run_dir), "--resume", "--rollout-workers", "1"]) == 0
    monkeypatch.undo()
    assert sorted(shard.part for shard in received) == [0, 1, 2]
    assert all(len(pickle.dumps(shard)) < 2_000 * shard.rows for shard in received)
    for part in ("rollouts", "preferences"):
        assert canonical_sha256(table(run_dir, part)) == canonical_sha256(table(finished, part)), part
    ours, theirs = (load_file(run / "policies" / "v0001" / "tangoflux.safetensors") for run in (run_dir, finished))
    assert all(ours[key].equal(theirs[key]) for key in ours)


def test_resume_continues_a_run_and_repeats_nothing(finished: Path, ray_session: None) -> None:
    shards = {path: path.stat().st_mtime_ns for path in finished.glob("rollouts/*/*.parquet")}
    assert main(["--run-dir", str(finished), "--resume", "--iterations", "2", "--rollout-workers", "1"]) == 0
    assert [row["iteration"] for row in events(finished, "iteration")] == [0, 1, 2]
    assert all(path.stat().st_mtime_ns == time for path, time in shards.items())
    for iteration in (1, 2):  # the previous iteration's policy samples the rollouts
        assert set(table(finished, "rollouts", iteration)["policy_version"].to_pylist()) == {iteration - 1}


def test_a_resume_with_other_prompts_is_refused(finished: Path, prompts: Path, ray_session: None) -> None:
    kept = prompts.read_text()
    prompts.write_text(kept.replace("dog", "cat"))
    try:
        with pytest.raises(TangoFluxError, match="the file of --prompts was edited since the run began: restore it"):
            main(["--run-dir", str(finished), "--resume", "--iterations", "3"])
    finally:
        prompts.write_text(kept)
    assert [row["iteration"] for row in events(finished, "iteration")] == [0, 1, 2]


def test_a_reward_that_fails_for_too_many_groups_stops_the_run(
    ray_session: None, tmp_path: Path, tiny_policy_dir: Path, prompts: Path
) -> None:
    failing = ("--reward", "tests.integration.rewards:FailsForDogsAndBells", "--prompts-per-iteration", "12")
    reasons = r"3 x ValueError: no dogs; 3 x the reward is not a finite number"
    # All six groups must fail before 45 % of twelve are exceeded.
    with pytest.raises(RewardError, match=rf"^the reward failed for 6 of 12 groups, .*: {reasons}$"):
        main(options(tiny_policy_dir, prompts, tmp_path / "run", *failing, "--max-dropped-share", "0.45"))


@pytest.mark.slow
def test_offline_runs_reuse_the_first_iterations_rollouts_but_not_its_reference(
    ray_session: None, tmp_path: Path, tiny_policy_dir: Path, prompts: Path
) -> None:
    run_dir = tmp_path / "run"
    more = ("--data", "offline", "--objective", "dgpo", "--iterations", "2")
    assert main(options(tiny_policy_dir, prompts, run_dir, *more)) == 0
    assert [path.name for path in (run_dir / "rollouts").iterdir()] == ["i0001"]
    for event in events(run_dir, "iteration")[1:]:  # policy and reference start equal each time
        assert event["loss"]["start"]["margin"] == pytest.approx(0, abs=1e-6)  # type: ignore[index]
        assert set(event["grad_norm"]) == {"dgpo", "winner"}  # type: ignore[arg-type]
    policies = [load_file(run_dir / "policies" / f"v000{v}" / "tangoflux.safetensors") for v in range(3)]
    assert all(any(not a[key].equal(b[key]) for key in a) for a, b in itertools.pairwise(policies))


@pytest.mark.slow
def test_the_default_run_improves_the_miniature_on_test_prompts(tmp_path: Path) -> None:
    assert main(["--run-dir", str(tmp_path / "run"), "--heldout-split", "test", "--heldout-num-prompts", "256"]) == 0
    aligned = events(tmp_path / "run", "iteration")[-1]["heldout"]
    for role in ("reward", "judge"):
        assert aligned[role]["delta"] > 2 * aligned[role]["delta_se"], aligned[role]  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "nowhere.txt"], "nowhere.txt"),
        (["--num-samples", "1"], "one sample makes no pair"),
        (["--promts", "x.txt"], "--prompts"),
        (["--init-policy", "jobs"], "config.json"),
        (["--reward", "best-clap"], "miniature-clap"),
        (["--run-dir", "/proc/run"], "/proc"),
        (["--prompts-per-iteration", "1000000", "--run-dir", "unused"], "4096"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    arguments: Sequence[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TangoFluxError) as refusal:
        main(list(arguments))
    assert message in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["jobs"]


def test_a_refusal_is_one_line_and_exit_status_2() -> None:
    command = [sys.executable, "jobs/crpo.py", "--prompts", "nowhere.txt"]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 2, process.stderr
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr

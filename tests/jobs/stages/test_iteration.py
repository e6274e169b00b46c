"""The stages of an iteration, with real pools, shards and policies; only the models and the learner are fakes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actors.pools.stream
import actors.pools.worker_slot
from actors.pools.worker_slot import WorkerError
from actors.storage.metrics import MetricsLog, read_history
from actors.storage.policy_store import PolicyStore
from actors.storage.shards import ShardWriter
from actors.workers.chunk import Chunk
from jobs.options.learner import LearnerOptions
from jobs.reporting.display import Display
from jobs.reporting.trackers import Trackers
from jobs.stages.failed_chunks import FailedChunks
from jobs.stages.iteration import Run, check_pairs_of_ranks
from jobs.stages.pools import Pools
from jobs.stages.run_storage import RunStorage
from tangoflux.data.preferences import PairCounts
from tangoflux.errors import DataError
from tests.jobs.stages.fake_learner import FakeLearner, step

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

CHUNK_SAMPLES = 2 * 2
"""Each iteration has three chunks of two prompts with two samples each."""


class StepsTracker:
    """Counts the optimiser steps that are tracked."""

    def __init__(self) -> None:
        self.steps = 0

    def scalars(self, values: Mapping[str, float], axis: str, number: int) -> None:
        self.steps += axis == "step"

    def audio(self, tag: str, waveform: Any, sample_rate_hz: int, iteration: int) -> None: ...

    def close(self, failed: bool) -> None: ...


def log_steps(run_dir: Path, *numbers: int) -> None:
    for number in numbers:
        MetricsLog(run_dir / "metrics.jsonl").write(**step(1, number))


def steps_in(run_dir: Path) -> list[int]:
    return [event["step"] for event in MetricsLog(run_dir / "metrics.jsonl").read() if event["event"] == "step"]


def lose_shard(run_dir: Path, part: int) -> None:
    for name in ("rollouts", "preferences"):
        (run_dir / name / "i0001" / f"part-{part:05d}.parquet").unlink()


def test_a_resume_samples_only_chunks_without_a_shard(start: Callable[..., Run], pools: Pools, tmp_path: Path) -> None:
    first = start().collect(1)
    lose_shard(tmp_path / "run", 1)
    sampled = pools.rollouts.status().done
    second = start().collect(1)
    assert pools.rollouts.status().done - sampled == CHUNK_SAMPLES
    assert ShardWriter(tmp_path / "run" / "rollouts" / "i0001").parts() == {0, 1, 2}
    assert second.pop("samples_per_second") and first.pop("samples_per_second")
    assert second == first and first["pairs"]["made"] == 6
    assert first["reward_components"] == {"fake": 0.5}


def test_without_a_pair_the_run_stops_before_the_learner_and_so_does_a_resume(
    start: Callable[..., Run], pools: Pools, tmp_path: Path
) -> None:
    sampled: list[int] = []
    for _ in range(2):
        with pytest.raises(DataError, match=r"^0 pairs of 6 prompts; 6 tied \(margins up to 1000\): there is nothing"):
            start("--min-margin", "1000").collect(1)
        sampled.append(pools.rollouts.status().done)
    assert sampled[0] == sampled[1], "the rollouts are kept"
    assert len(ShardWriter(tmp_path / "run" / "rollouts" / "i0001").read()) == 6 * 2


def test_it_is_said_how_many_pairs_an_iteration_has(start: Callable[..., Run]) -> None:
    said = io.StringIO()
    start(display=Display(2, said)).collect(1)
    assert "iteration 1: 6 pairs of 6 prompts\n" in said.getvalue()


def test_a_resume_samples_nothing_if_all_shards_exist(start: Callable[..., Run], pools: Pools) -> None:
    start().collect(1)
    sampled = pools.rollouts.status().done
    assert start().collect(1)["samples_per_second"] is None
    assert pools.rollouts.status().done == sampled


def test_a_resume_writes_pairs_that_are_missing(start: Callable[..., Run], tmp_path: Path) -> None:
    start().collect(1)
    preferences = tmp_path / "run" / "preferences" / "i0001"
    (preferences / "part-00001.parquet").unlink()
    assert start().collect(1)["pairs"]["made"] == 6
    assert ShardWriter(preferences).parts() == {0, 1, 2}


def test_rollouts_are_sampled_by_the_previous_iterations_policy(
    start: Callable[..., Run], tmp_path: Path, tiny_policy_dir: Path
) -> None:
    run = start()
    run.store.publish(1, tiny_policy_dir)
    for iteration in (2, 1):
        run.collect(iteration)
        rows = ShardWriter(tmp_path / "run" / "rollouts" / f"i{iteration:04d}").read(["policy_version"])
        assert set(rows["policy_version"].to_pylist()) == {iteration - 1}


def test_failed_chunks_are_retried_until_a_policy_was_trained_without_them(
    start: Callable[..., Run], tmp_path: Path, tiny_policy_dir: Path
) -> None:
    run_dir = tmp_path / "run"
    run = start()
    run.collect(1)
    rollouts, failed = ShardWriter(run_dir / "rollouts" / "i0001"), FailedChunks(run_dir / "rollouts" / "i0001")

    def fail() -> None:
        lose_shard(run_dir, 2)
        prompts = tuple(run.inputs.heldout[:2])
        failed.add(Chunk(2, 1, prompts, ((0, 1), (0, 1))), WorkerError("it killed its workers"))

    fail()
    assert start().collect(1)["pairs"]["dropped"] == 0
    assert rollouts.parts() == {0, 1, 2} and not failed.parts()
    fail()
    PolicyStore(run_dir / "policies").publish(1, tiny_policy_dir)
    pairs = start().collect(1)["pairs"]
    assert (pairs["made"], pairs["dropped"]) == (4, 2)
    assert rollouts.parts() == {0, 1} and failed.parts() == {2}


def test_steps_that_an_earlier_start_logged_are_not_logged_again(
    start: Callable[..., Run], learner: FakeLearner, tmp_path: Path
) -> None:
    start()
    log_steps(tmp_path / "run", 1, 2)
    run, tracker = start(), StepsTracker()
    run.trackers = Trackers(tracker)
    run.learn(1)
    assert steps_in(tmp_path / "run") == [1, 2, 3, 4]
    assert tracker.steps == 2


def test_steps_of_a_learner_that_lacked_chunks_are_logged_again(
    start: Callable[..., Run], learner: FakeLearner, tmp_path: Path
) -> None:
    start()
    log_steps(tmp_path / "run", 1, 2)
    run = start()
    run.collect(1)
    run.learn(1)
    assert steps_in(tmp_path / "run") == [1, 2, 1, 2, 3, 4]
    assert [event["step"] for event in read_history(tmp_path / "run" / "metrics.jsonl").steps] == [1, 2, 3, 4]


def test_a_published_policy_is_not_trained_again_and_leftovers_are_removed(
    start: Callable[..., Run], learner: FakeLearner, tmp_path: Path
) -> None:
    first = start().learn(1)
    output = tmp_path / "run" / "learner" / "i0001"
    (output / "checkpoints" / "key").mkdir(parents=True)
    (output / "weights.safetensors").touch()
    assert start().learn(1) == first
    assert len(learner.calls) == 1
    assert [path.name for path in output.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("data", "trained_on", "collected"), [("online", ["i0001", "i0002"], True), ("offline", ["i0001", "i0001"], False)]
)
def test_offline_runs_train_every_iteration_on_the_first_ones_pairs(
    start: Callable[..., Run], learner: FakeLearner, data: str, trained_on: list[str], collected: bool
) -> None:
    run = start("--data", data)
    run.learn(1)
    assert bool(run.collect(2)) is collected
    run.learn(2)
    assert learner.calls == list(zip(trained_on, ["v0000", "v0001"], strict=True))


class RecordingStorage(RunStorage):
    """Keeps what a push would store: the finished iterations and the policies."""

    pushed: tuple[list[int], list[int]]

    def push(self) -> None:
        history = read_history(self.local / "metrics.jsonl")
        versions = PolicyStore(self.local / "policies").versions()
        self.pushed = [event["iteration"] for event in history.iterations], versions


def test_a_finished_iteration_is_pushed_before_old_policies_are_dropped(
    start: Callable[..., Run], tmp_path: Path, tiny_policy_dir: Path
) -> None:
    run = start("--keep-policies", "1")
    run.evaluate(0, {})
    for version in (1, 2):
        run.store.publish(version, tiny_policy_dir)
    run.evaluate(1, {})
    storage = run.storage = RecordingStorage(tmp_path / "run", tmp_path / "run")
    run.evaluate(2, {})
    assert storage.pushed == ([0, 1, 2], [0, 1, 2])
    assert run.store.versions() == [0, 2]
    resumed = start()
    assert [resumed.is_finished(iteration) for iteration in range(4)] == [True, True, True, False]


def judged(run: Run, judge: Sequence[float], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run with made-up held-out scores: the reward rises, and the judge's mean is as given for each iteration."""

    def scores(iteration: int) -> dict[str, dict[str, float]]:
        values = {"reward": 0.1 * iteration, "judge": judge[iteration]}
        noise = 0.001 * iteration
        return {
            prompt.id: {name: value + noise * row for name, value in values.items()}
            for row, prompt in enumerate(run.inputs.heldout)
        }

    monkeypatch.setattr(run, "_score_heldout", scores)
    return run


def test_after_an_alarm_the_run_goes_back_to_the_best_policy_and_names_it_as_the_result(
    start: Callable[..., Run], learner: FakeLearner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    options = ("--keep-best", "judge", "--keep-policies", "1", "--iterations", "4")
    run = judged(start(*options, display=Display(4, said)), (0.5, 0.8, 0.7, 0.6, 0.75), monkeypatch)
    run.evaluate(0, {})
    for iteration in (1, 2, 3):
        run.learn(iteration)
        run.evaluate(iteration, {})
    assert "alarm: the reward rose while judge became worse" in said.getvalue()
    assert "continues from policy 1" in said.getvalue()
    assert run.store.versions() == [0, 1, 3], "the best one is kept too"
    resumed = judged(start(*options), (0.5, 0.8, 0.7, 0.6, 0.75), monkeypatch)
    resumed.collect(4)
    rows = ShardWriter(tmp_path / "run" / "rollouts" / "i0004").read(["policy_version"])
    assert set(rows["policy_version"].to_pylist()) == {1}
    resumed.learn(4)
    resumed.evaluate(4, {})
    assert [policy for _, policy in learner.calls] == ["v0000", "v0001", "v0002", "v0001"]
    assert resumed.result() == 1 and not resumed.must_stop()
    event = read_history(tmp_path / "run" / "metrics.jsonl").iterations[4]
    assert event["heldout"]["judge"]["step"] == pytest.approx(0.75 - 0.8, abs=0.01), "against the policy it came from"


def test_an_alarm_only_warns_unless_the_options_say_to_stop(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = judged(start("--on-alarm", "stop"), (0.5, 0.4, 0.3), monkeypatch)
    for iteration in range(3):
        run.evaluate(iteration, {})
        assert run.must_stop() == (iteration == 2)
    warned = start("--on-alarm", "warn")
    assert not warned.must_stop() and warned.result() == 2


def test_prompts_of_a_failed_heldout_chunk_have_no_score(
    start: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors.pools.stream, "MAX_DEATHS", 1)
    # One task per worker, so that no other chunk is on the worker that dies.
    for module in (actors.pools.stream, actors.pools.worker_slot):
        monkeypatch.setattr(module, "MAX_IN_FLIGHT", 1)
    output = io.StringIO()
    run = start(heldout=["a", "bb", "ccc", "kill"], display=Display(2, output))
    run.evaluate(0, {})
    scores = run.heldout.read(0)["reward"]
    by_text = dict(zip([prompt.text for prompt in run.inputs.heldout], scores, strict=True))
    failed = {text for text, score in by_text.items() if np.isnan(score)}
    assert len(failed) == 2 and "kill" in failed
    assert all(score == len(text) for text, score in by_text.items() if text not in failed)
    assert "held-out prompts without scores: rollout worker: chunk" in output.getvalue()
    [event] = read_history(tmp_path / "run" / "metrics.jsonl").iterations
    assert event["heldout"]["reward"]["mean"] == np.nanmean(scores)


def test_an_evaluation_without_any_score_raises_the_chunks_error(
    start: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors.pools.stream, "MAX_DEATHS", 1)
    with pytest.raises(WorkerError, match="was given up after 1 workers"):
        start(heldout=["kill", "kill too"]).evaluate(0, {})
    assert not read_history(tmp_path / "run" / "metrics.jsonl").iterations


@pytest.mark.parametrize(
    ("made", "heldout_pairs", "share", "workers", "trained"),
    [(1, 0, 1, 2, 1), (3, 0, 1, 4, 3), (8, 1, 1, 8, 7), (16, 64, 1, 15, 14), (16, 64, 0.5, 8, 7)],
)
def test_fewer_pairs_than_ranks_are_told_before_the_ranks_start(
    made: int, heldout_pairs: int, share: float, workers: int, trained: int
) -> None:
    learner = LearnerOptions(heldout_pairs=heldout_pairs, group_share=share, workers=workers)
    message = (
        rf"^{made} pairs? of {made + 2} prompts.*: {trained} to train on, less than one for each of --learner-workers"
    )
    with pytest.raises(DataError, match=message):
        check_pairs_of_ranks(PairCounts(made=made, tied=2), 0.0, learner)
    check_pairs_of_ranks(PairCounts(made=made, tied=2), 0.0, learner.model_copy(update={"workers": trained}))

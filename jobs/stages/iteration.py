"""The stages of a CRPO iteration. Each does only the work whose results are missing, so that a run can resume."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.learner.checkpoint import load_tensors
from actors.learner.launch import train
from actors.learner.schedule import num_trained
from actors.learner.settings import LearnerResult
from actors.storage.atomic import atomic_write
from actors.storage.layout import ROLLOUTS, iteration_name
from actors.storage.metrics import Event, MetricsLog, read_history
from actors.storage.object_store import Location
from actors.storage.paths import remove, remove_below
from actors.storage.samples import SampleFolder
from actors.storage.shards import shards_at
from actors.workers.chunk import Chunk, heldout_chunks, rollout_chunks
from actors.workers.messages import Destination, ScoredPrompts, WrittenShard
from jobs.options.crpo import RunConfig
from jobs.options.learner import LearnerOptions
from jobs.reporting.display import Display, Stage
from jobs.reporting.figures import HEADLINES, alarm, best_iteration, result_iteration
from jobs.reporting.heldout import HeldoutScores, figures_by_shape, heldout_figures
from jobs.reporting.machine import machine_facts
from jobs.reporting.trackers import Trackers
from jobs.stages.failed_chunks import FailedChunks
from jobs.stages.pools import Pools, alignment_settings, make_room_for_learner, pair_shards
from jobs.stages.preflight import Inputs
from jobs.stages.retention import drop_old
from jobs.stages.run_dir import prompt_hashes
from jobs.stages.run_storage import RunStorage
from tangoflux.data.components import ComponentSums
from tangoflux.data.flac import decode_flac
from tangoflux.data.health import HealthSums
from tangoflux.data.preferences import PairCounts, check_any_pairs, check_dropped_share, describe_counts
from tangoflux.data.prompts import draw_prompts
from tangoflux.errors import DataError, TangoFluxError


class Run:
    """A run's directory, pools and logs, and the stages over them."""

    def __init__(
        self,
        config: RunConfig,
        storage: RunStorage,
        inputs: Inputs,
        pools: Pools,
        display: Display,
        trackers: Trackers,
    ) -> None:
        self.config, self.inputs, self.pools, self.display, self.trackers = config, inputs, pools, display, trackers
        self.storage, self.directory = storage, storage.local
        self.metrics = MetricsLog(self.directory / "metrics.jsonl")
        self.store = storage.policies
        self.heldout = HeldoutScores(storage.root / "heldout", inputs.heldout)
        self.samples = SampleFolder(self.directory / "samples")
        history = read_history(self.metrics.path)
        self._finished = {event["iteration"] for event in history.iterations}
        self._steps_logged = {(event["iteration"], event["step"]) for event in history.steps}
        self._learner_restarts = 0

    def log_start(self, command: Sequence[str]) -> None:
        """Writes the "run" event: the command, its options and the machine."""
        values = self.config.model_dump(mode="json")
        facts = {"config": values, "prompts_sha256": prompt_hashes(self.config), "machine": machine_facts()}
        facts |= {"served_rewards": self.inputs.served}
        self.metrics.write("run", command=list(command), seed=self.config.seed, **facts)

    def log_end(self, seconds: float) -> dict[str, int]:
        """Writes the "end" event; returns the counts of failures that this start of the run recovered from."""
        failure_counts = {**self.pools.failure_counts(), "learner_restarts": self._learner_restarts}
        iterations = self._iterations()[-1]["iteration"]
        self.metrics.write("end", seconds=round(seconds, 2), iterations=iterations, **failure_counts)
        return failure_counts

    def is_finished(self, iteration: int) -> bool:
        """Whether an earlier start of this run finished the iteration."""
        return iteration in self._finished

    def drop_old(self) -> None:
        """Drops the old files that an earlier start of this run had no time to drop."""
        if self._finished:
            drop_old(self.config, self.storage, sorted(self._finished), self.result())

    def collect(self, iteration: int) -> dict[str, Any]:
        """Rollouts, rewards and preference pairs of an iteration; returns their part of the iteration's event."""
        if self.config.data == "offline" and iteration > 1:
            return {}
        min_margin = self.config.rewards.min_margin
        destination = Destination(self.storage.rollouts(iteration), self.storage.preferences(iteration), min_margin)
        written = self._pair_existing(iteration, destination)
        rate = self._roll_out(iteration, destination, written)
        counts = sum((written[part].counts for part in sorted(written)), self._failed_chunks(iteration).counts())
        health = sum((written[part].health for part in sorted(written)), HealthSums()).health()
        components = sum((written[part].components for part in sorted(written)), ComponentSums()).means()
        self.pools.telemetry.count("dropped_groups", counts.dropped)
        check_dropped_share(counts, self.config.rewards.max_dropped_share)
        check_any_pairs(counts, min_margin)
        check_pairs_of_ranks(counts, min_margin, self.config.learner)
        self.display.note(f"iteration {iteration}: {describe_counts(counts, min_margin)}")
        return {
            "pairs": dataclasses.asdict(counts),
            "reward_components": components,
            **dataclasses.asdict(health),
            "samples_per_second": rate,
        }

    def _pair_existing(self, iteration: int, destination: Destination) -> dict[int, WrittenShard]:
        """Summaries of the shards that an earlier start of the run wrote; pairs that are missing are written."""
        parts = shards_at(destination.rollouts).parts()
        if not parts:
            return {}
        with self.display.stage(iteration, "pairs", len(parts), "shards") as stage:
            written: dict[int, WrittenShard] = {}
            for shard in pair_shards(self.pools.writer, parts, destination):
                written[shard.part] = shard
                stage.advance()
        return written

    def _roll_out(self, iteration: int, destination: Destination, written: dict[int, WrittenShard]) -> float | None:
        """Samples and scores the chunks that are not in ``written``, and adds them; returns samples per second."""
        config = self.config
        prompts = draw_prompts(self.inputs.prompts, config.prompts_per_iteration, config.seed, iteration)
        chunks = rollout_chunks(prompts, iteration, config.seed, config.num_samples, config.rollouts.chunk_prompts)
        done, failed = set(written), self._failed_chunks(iteration)
        if iteration in self.store.versions():
            done |= failed.parts()  # too late: the policy was trained without them
        else:
            failed.clear()
        missing = [chunk for chunk in chunks if chunk.index not in done]
        samples = sum(len(chunk.prompts) for chunk in missing) * config.num_samples
        if not missing:
            return None
        # Steps that were logged of a learner without these chunks are logged again.
        self._steps_logged = {key for key in self._steps_logged if key[0] != iteration}
        counts = sum((shard.counts for shard in written.values()), PairCounts())
        with self.display.stage(iteration, "rollouts", samples) as stage:
            self._use_policy(self._start(iteration))
            for shard in self.pools.collect(missing, destination, failed.add):
                written[shard.part] = shard
                counts += shard.counts
                check_dropped_share(counts + failed.counts(), config.rewards.max_dropped_share, len(prompts))
                stage.advance(shard.rows)
        return samples / stage.seconds

    def learn(self, iteration: int) -> dict[str, Any]:
        """Trains on the iteration's pairs and publishes the new policy; returns the learner's figures."""
        output = self.storage.root / "learner" / iteration_name(iteration)
        figures = self.directory / "learner" / iteration_name(iteration) / "result.json"
        if iteration not in self.store.versions():
            with self.display.stage(iteration, "learner", self.config.max_steps, "steps") as stage:
                result = self._train(iteration, output, lambda step: self._on_step(stage, step))
                self._learner_restarts += result.restarts
                self.pools.telemetry.count("learner_restarts", result.restarts)
                _write_json(figures, _figures_of(result))
                lora = alignment_settings(self.config.objective, self.config.learner).lora
                weights = load_tensors(result.weights)
                self.storage.push()  # first, as a resume that finds the policy must also find its figures
                self.store.publish(iteration, self.store.path(self._start(iteration)), weights, lora)
        # Also where an earlier driver died before this line.
        remove(output / "weights.safetensors")
        remove_below(output / "checkpoints")
        return json.loads(figures.read_text())

    def _train(self, iteration: int, output: Location, on_step: Callable[[Mapping[str, Any]], None]) -> LearnerResult:
        config, of = self.config, 1 if self.config.data == "offline" else iteration
        settings = alignment_settings(config.objective, config.learner, config.rewards.min_margin)
        return train(
            self.storage.preferences(of) if settings.objective.needs_pairs_only else self.storage.rollouts(of),
            self.store.path(self._start(iteration)),
            output,
            settings,
            iteration,
            self.config.seed,
            on_step,
            lambda: make_room_for_learner(self.config, self.pools),
        )

    def _on_step(self, stage: Stage, step: Mapping[str, Any]) -> None:
        self.pools.poll()
        if (step["iteration"], step["step"]) in self._steps_logged:
            stage.skip(1)
            return
        self.pools.telemetry.count("learner_steps")
        self.pools.telemetry.show("learner_steps_per_second", 1 / max(step["seconds"], 1e-6))
        self.trackers.step(self.metrics.write(**step))
        stage.advance(**{name: step[name] for name in ("loss", "margin") if name in step})

    def evaluate(self, iteration: int, figures: Mapping[str, Any]) -> None:
        """Samples the held-out prompts with the iteration's policy, and closes the iteration with its event."""
        self.heldout.write(iteration, self._score_heldout(iteration))
        scores, base, before = (self.heldout.read(version) for version in (iteration, 0, self._start(iteration)))
        prompts = [prompt.text for prompt in self.inputs.heldout]
        heldout = heldout_figures(scores, base, before, prompts)
        self.display.figures(**{name: heldout[name] for name in HEADLINES if name in heldout})
        alarmed = alarm([*(row["heldout"] for row in self._iterations(1, iteration)), heldout] if iteration else [])
        by_shape = figures_by_shape(scores, base, prompts)
        self._close(iteration, {"heldout": heldout, "heldout_by_shape": by_shape, "alarm": alarmed, **figures})
        if alarmed:
            self._sound_alarm(iteration, alarmed)

    def must_stop(self) -> bool:
        """Whether the last iteration gave an alarm, and the options say to stop then."""
        return self.config.on_alarm == "stop" and bool(self._iterations()[-1].get("alarm"))

    def result(self) -> int:
        """The version that is the run's result."""
        return result_iteration(self._iterations(), self.config.keep_best)

    def _sound_alarm(self, iteration: int, figures: Sequence[str]) -> None:
        names = ", ".join(figures)
        text = f"alarm: the reward rose while {names} became worse by more than the error, two iterations running"
        if self.must_stop():
            text += "; the run stops (--on-alarm stop)"
        elif self.config.keep_best:
            text += f"; the next iteration continues from policy {self._start(iteration + 1)} (--keep-best)"
        self.display.note(text, style="bold yellow")

    def _start(self, iteration: int) -> int:
        """The version that an iteration starts from: the last one, or after an alarm the best one if it is kept."""
        rows = self._iterations(0, iteration)
        if self.config.keep_best and rows and rows[-1].get("alarm"):
            return best_iteration(rows, self.config.keep_best)
        return max(iteration - 1, 0)

    def _iterations(self, first: int = 0, end: int | None = None) -> list[Event]:
        """The events of the finished iterations from ``first`` to before ``end``."""
        rows = read_history(self.metrics.path).iterations
        return [row for row in rows if row["iteration"] >= first and (end is None or row["iteration"] < end)]

    def _score_heldout(self, iteration: int) -> dict[str, dict[str, float]]:
        """``{prompt id: {role: score}}``, without the prompts of chunks that were given up."""
        config = self.config
        chunks = heldout_chunks(self.inputs.heldout, iteration, config.heldout.seed, 1, config.rollouts.chunk_prompts)
        audio_ids = [prompt.id for prompt in self.inputs.heldout[: config.heldout.num_audio_samples]]
        scores: dict[str, dict[str, float]] = {}
        errors: list[TangoFluxError] = []
        with self.display.stage(iteration, "held-out prompts", len(self.inputs.heldout)) as stage:
            self._use_policy(iteration)
            for chunk, scored in self.pools.score_heldout(
                chunks, tuple(config.rewards.roles), audio_ids, lambda _, error: errors.append(error)
            ):
                self._keep_audio(chunk, scored)
                scores |= scored.scores
                stage.advance(len(chunk.prompts))
        if errors and not scores:
            raise errors[0]
        for error in errors:
            self.display.note(f"held-out prompts without scores: {error}")
        return scores

    def _close(self, iteration: int, figures: Mapping[str, Any]) -> None:
        seconds = {name: round(value, 2) for name, value in self.display.seconds.get(iteration, {}).items()}
        event = self.metrics.write(
            "iteration", iteration=iteration, policy_version=iteration, **figures, seconds=seconds
        )
        self.trackers.iteration(event)
        # First what says that the iteration is finished: a driver that dies in between must not miss what is dropped.
        self.storage.push()
        drop_old(self.config, self.storage, [iteration], self.result())

    def _keep_audio(self, chunk: Chunk, scored: ScoredPrompts) -> None:
        """Stores the audio that people listen to; an iteration that is measured again replaces it."""
        prompts = {prompt.id: prompt for prompt in chunk.prompts}
        for id, flac in scored.audio.items():
            scores = {role: value if np.isfinite(value) else None for role, value in scored.scores[id].items()}
            self.samples.write(chunk.iteration, id, prompts[id].text, prompts[id].duration_s, flac, scores)
            self.trackers.audio(f"samples/{id}", *decode_flac(flac), chunk.iteration)

    def _use_policy(self, version: int) -> None:
        self.pools.rollouts.broadcast("set_policy", version, ray.put(self.store.state(version)))
        self.pools.telemetry.show("policy_version", version)

    def _failed_chunks(self, iteration: int) -> FailedChunks:
        return FailedChunks(self.directory / ROLLOUTS / iteration_name(iteration))


def check_pairs_of_ranks(counts: PairCounts, min_margin: float, learner: LearnerOptions) -> None:
    """Checks that each rank of the learner has a pair.

    Raises:
        DataError: there are fewer pairs to train on than ranks; the message says why there are not more.
    """
    trained = num_trained(counts.made, learner.heldout_pairs, learner.group_share)
    if trained < learner.workers:
        raise DataError(
            f"{describe_counts(counts, min_margin)}: {trained} to train on, less than one for each of "
            f"--learner-workers {learner.workers}; resume with fewer"
        )


def _figures_of(result: LearnerResult) -> dict[str, Any]:
    """The learner's part of an iteration's event."""
    return {
        "loss": {"start": result.start, "end": result.end},
        "grad_norm": result.grad_norm,
        "heldout_pair_accuracy": result.heldout_pair_accuracy,
        "steps": result.steps,
        "learner_restarts": result.restarts,
    }


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values) + "\n")

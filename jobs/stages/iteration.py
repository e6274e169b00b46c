"""The stages of a CRPO iteration. Each does what its part of the run directory lacks, so that a resume goes on."""

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
from actors.learner.settings import LearnerResult
from actors.storage.atomic import atomic_write
from actors.storage.metrics import MetricsLog, read_history
from actors.storage.object_store import ObjectStorePath
from actors.storage.paths import remove, remove_below
from actors.storage.policy_store import PolicyStore
from actors.storage.shards import Shards, shards_at
from actors.workers.chunk import Chunk, heldout_chunks, rollout_chunks
from actors.workers.reward import ScoredBatch
from jobs.options.crpo import RunConfig
from jobs.reporting.display import Display, Stage
from jobs.reporting.heldout import HeldoutScores, heldout_figures
from jobs.reporting.machine import machine_facts
from jobs.reporting.samples import SampleFolder
from jobs.reporting.trackers import Trackers
from jobs.stages.failed_chunks import FailedChunks
from jobs.stages.pools import Pools, alignment_settings, make_room_for_learner
from jobs.stages.preflight import Inputs
from jobs.stages.retention import drop_old
from jobs.stages.run_storage import RunStorage
from tangoflux.data.health import HealthMeter
from tangoflux.data.preferences import PairCounts, check_dropped_share, make_pairs
from tangoflux.data.prompts import draw_prompts
from tangoflux.data.records import rollout_schema
from tangoflux.errors import TangoFluxError


class Run:
    """A run's directory, pools and logs, and the stages over them."""

    def __init__(
        self,
        config: RunConfig,
        place: RunStorage,
        inputs: Inputs,
        pools: Pools,
        display: Display,
        trackers: Trackers,
    ) -> None:
        self.config, self.inputs, self.pools, self.display, self.trackers = config, inputs, pools, display, trackers
        self.place, self.directory = place, place.local
        self.metrics = MetricsLog(self.directory / "metrics.jsonl")
        self.store = PolicyStore(self.directory / "policies")
        self.heldout = HeldoutScores(place.root / "heldout", inputs.heldout)
        self.samples = SampleFolder(self.directory / "samples")
        history = read_history(self.metrics.path)
        self._finished = {event["iteration"] for event in history.iterations}
        self._steps_logged = {(event["iteration"], event["step"]) for event in history.steps}
        self._learner_restarts = 0
        self._schema = rollout_schema(inputs.max_frames, inputs.channels, config.rollouts.latents_dtype)

    def log_start(self, command: Sequence[str]) -> None:
        """The event that says what runs, with which options, on what."""
        values = self.config.model_dump(mode="json")
        self.metrics.write("run", command=list(command), seed=self.config.seed, config=values, machine=machine_facts())

    def log_end(self, seconds: float) -> dict[str, int]:
        """The event of a run that went to its end; returns what went wrong since its last start, and was mended."""
        failure_counts = {**self.pools.failure_counts(), "learner_restarts": self._learner_restarts}
        self.metrics.write("end", seconds=round(seconds, 2), iterations=self.config.iterations, **failure_counts)
        return failure_counts

    def is_finished(self, iteration: int) -> bool:
        """Whether an earlier start of this run did the whole iteration."""
        return iteration in self._finished

    def drop_old(self) -> None:
        """Drops what an earlier start of this run did not get to."""
        drop_old(self.config, self.place, sorted(self._finished))

    def collect(self, iteration: int) -> dict[str, Any]:
        """Rollouts, rewards and preference pairs of an iteration; returns what the iteration's event says of them."""
        if self.config.data == "offline" and iteration > 1:
            return {}
        rollouts = shards_at(self.place.root / "rollouts" / _folder(iteration))
        rate = self._roll_out(iteration, rollouts)
        with self.display.stage(iteration, "pairs"):
            return {**self._pair(iteration, rollouts), "samples_per_second": rate}

    def _roll_out(self, iteration: int, rollouts: Shards) -> float | None:
        """Samples and scores the chunks that no shard holds yet; returns samples a second."""
        config = self.config
        prompts = draw_prompts(self.inputs.prompts, config.prompts_per_iteration, config.seed, iteration)
        chunks = rollout_chunks(prompts, iteration, config.seed, config.num_samples, config.rollouts.chunk_prompts)
        done, failures, aside = rollouts.parts(), PairCounts(), self._failed_chunks(iteration)
        if iteration in self.store.versions():
            done |= aside.parts()  # too late for the policy that was trained without them
        else:
            aside.clear()
        missing = [chunk for chunk in chunks if chunk.index not in done]
        samples = sum(len(chunk.prompts) for chunk in missing) * config.num_samples
        if not missing:
            return None
        # What was logged of a learner without these chunks is logged anew.
        self._steps_logged = {key for key in self._steps_logged if key[0] != iteration}
        with self.display.stage(iteration, "rollouts", samples) as stage:
            self._use_policy(iteration - 1)
            for _, written in self.pools.collect(missing, rollouts.directory, self._schema, aside.add):
                failures += written.counts
                check_dropped_share(failures + aside.counts(), config.rewards.max_dropped_share, len(prompts))
                stage.advance(written.rows)
        return samples / stage.seconds

    def _pair(self, iteration: int, rollouts: Shards) -> dict[str, Any]:
        """Writes the pairs shard by shard, and measures the samples' health."""
        preferences = shards_at(self._preferences(iteration))
        counts, health = self._failed_chunks(iteration).counts(), HealthMeter()
        for part, table in rollouts.tables():
            pairs, of_part = make_pairs(table, self.config.rewards.min_margin)
            preferences.write(part, pairs)
            counts += of_part
            health.add(table)
        self.pools.telemetry.count("dropped_groups", counts.dropped)
        check_dropped_share(counts, self.config.rewards.max_dropped_share)
        return {"pairs": dataclasses.asdict(counts), **dataclasses.asdict(health.result())}

    def learn(self, iteration: int) -> dict[str, Any]:
        """Trains on the iteration's pairs and publishes the new policy; returns the learner's figures."""
        output = self.place.root / "learner" / _folder(iteration)
        figures = self.directory / "learner" / _folder(iteration) / "result.json"
        if iteration not in self.store.versions():
            with self.display.stage(iteration, "learner", self.config.max_steps, "steps") as stage:
                make_room_for_learner(self.config, self.pools)
                result = self._train(iteration, output, lambda step: self._on_step(stage, step))
                self._learner_restarts += result.restarts
                self.pools.telemetry.count("learner_restarts", result.restarts)
                _write_json(figures, _figures_of(result))
                lora = alignment_settings(self.config.objective, self.config.learner).lora
                weights = load_tensors(result.weights)
                self.store.publish(iteration, self.store.path(iteration - 1), weights, lora)
                self.place.push()
        # Also what a driver left that died before this.
        remove(output / "weights.safetensors")
        remove_below(output / "checkpoints")
        return json.loads(figures.read_text())

    def _train(
        self, iteration: int, output: Path | ObjectStorePath, on_step: Callable[[Mapping[str, Any]], None]
    ) -> LearnerResult:
        return train(
            self._preferences(1 if self.config.data == "offline" else iteration),
            self.place.policy(iteration - 1),
            output,
            alignment_settings(self.config.objective, self.config.learner),
            iteration,
            self.config.seed,
            on_step,
        )

    def _on_step(self, stage: Stage, step: Mapping[str, Any]) -> None:
        self.pools.poll()
        if (step["iteration"], step["step"]) in self._steps_logged:
            stage.skip(1)
            return
        self.pools.telemetry.count("learner_steps")
        self.pools.telemetry.show("learner_steps_per_second", 1 / max(step["seconds"], 1e-6))
        self.trackers.step(self.metrics.write(**step))
        stage.advance(loss=step["loss"], margin=step["margin"])

    def evaluate(self, iteration: int, figures: Mapping[str, Any]) -> None:
        """Samples the held-out prompts with the iteration's policy, and closes the iteration with its event."""
        self.heldout.write(iteration, self._score_heldout(iteration))
        heldout = heldout_figures(self.heldout.read(iteration), self.heldout.read(0))
        self.display.figures(**heldout)
        self._close(iteration, {"heldout": heldout, **figures})

    def _score_heldout(self, iteration: int) -> dict[str, dict[str, float]]:
        """``{prompt id: {role: score}}``, without the prompts of chunks that were set aside."""
        config = self.config
        chunks = heldout_chunks(self.inputs.heldout, iteration, config.heldout.seed, 1, config.rollouts.chunk_prompts)
        roles, keep = tuple(config.rewards.roles), self._listening()
        scores: dict[str, dict[str, float]] = {}
        lost: list[TangoFluxError] = []
        with self.display.stage(iteration, "held-out prompts", len(self.inputs.heldout)) as stage:
            self._use_policy(iteration)
            for chunk, scored in self.pools.score(chunks, roles, keep, lambda _, error: lost.append(error)):
                of_chunk = _scores_of(chunk, scored)
                self._keep_audio(chunk, scored, of_chunk)
                scores |= of_chunk
                stage.advance(len(chunk.prompts))
        if lost and not scores:
            raise lost[0]
        for error in lost:
            self.display.note(f"held-out prompts without scores: {error}")
        return scores

    def _close(self, iteration: int, figures: Mapping[str, Any]) -> None:
        seconds = {name: round(value, 2) for name, value in self.display.seconds.get(iteration, {}).items()}
        event = self.metrics.write(
            "iteration", iteration=iteration, policy_version=iteration, **figures, seconds=seconds
        )
        self.trackers.iteration(event)
        # First what says that the iteration is finished: a driver that dies in between must not miss what is dropped.
        self.place.push()
        drop_old(self.config, self.place, [iteration])

    def _listening(self) -> tuple[str, ...]:
        return tuple(prompt.id for prompt in self.inputs.heldout[: self.config.heldout.num_audio_samples])

    def _keep_audio(self, chunk: Chunk, scored: ScoredBatch, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Stores the audio of the prompts to listen to; an iteration that is done again replaces it."""
        rate = scored.rollouts.sample_rate_hz
        for prompt in chunk.prompts:
            for waveform in scored.waveforms.get(prompt.id, []):
                finite = {role: value if np.isfinite(value) else None for role, value in scores[prompt.id].items()}
                self.samples.write(chunk.iteration, prompt.id, prompt.text, prompt.duration_s, waveform, rate, finite)
                self.trackers.audio(f"samples/{prompt.id}", waveform, rate, chunk.iteration)

    def _use_policy(self, version: int) -> None:
        self.pools.rollouts.broadcast("set_policy", version, ray.put(self.store.state(version)))
        self.pools.telemetry.show("policy_version", version)

    def _preferences(self, iteration: int) -> Path | ObjectStorePath:
        return self.place.root / "preferences" / _folder(iteration)

    def _failed_chunks(self, iteration: int) -> FailedChunks:
        return FailedChunks(self.directory / "rollouts" / _folder(iteration))


def _folder(iteration: int) -> str:
    return f"i{iteration:04d}"


def _scores_of(chunk: Chunk, scored: ScoredBatch) -> dict[str, dict[str, float]]:
    return {
        prompt.id: {role: float(scores.rewards[row, 0]) for role, scores in scored.scores.items()}
        for row, prompt in enumerate(chunk.prompts)
    }


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

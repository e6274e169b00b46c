"""Estimates of the memory of this machine that a run needs, from its options and the policy's sizes.

GPU memory is not estimated: there are no measurements to hold an estimate against.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from actors.learner.objectives import make_objective
from jobs.capacity.model_facts import ModelFacts
from jobs.options.crpo import RunConfig
from jobs.options.learner import LearnerOptions
from jobs.reporting.formatting import format_bytes
from tangoflux.model.conditioning import TRAINING_MAX_TOKENS
from tangoflux.sampling import SAMPLING_FLOATS

PROCESS_BYTES = 600_000_000
"""A worker process after importing torch, Ray and the models' libraries; measured."""

RAY_BYTES = 900_000_000
"""Ray's own processes, the job and the shard writer; measured on one machine."""

TRAINING_FLOATS = {"fp32": 23, "bf16": 27}
"""Numbers kept for the backward pass per row, token, block and unit of width; measured on three sizes and with LoRA."""

DECODING_FLOATS = 4.5
"""Numbers that the codec holds per row, sample and channel of its last block; measured on two sizes."""

IN_FLIGHT = 2
"""Chunks per worker that the object store holds at once."""


@dataclass(frozen=True)
class Memory:
    """Bytes of this machine's memory for processes of one kind; ``options`` are those that reduce it."""

    name: str
    processes: int
    each: int
    detail: str
    options: str

    @property
    def total(self) -> int:
        """Bytes of all its processes."""
        return self.processes * self.each


@dataclass(frozen=True)
class LearnerMemory:
    """Bytes of a learner rank at its peak: while the new policy is measured and the optimiser is still in memory.

    Attributes:
        policy, reference: all weights; with LoRA the reference shares the policy's base weights.
        optimizer: master weights, AdamW's moments and the communication buffer for gradients.
        gradients: of the two loss terms, and their sums over the measured pairs.
        activations: what the forward pass keeps for the backward pass.
        loading: a policy in float32 and the file it is read from, while it is loaded.
        copies: trained weights in float32 for storing, averaging and rounding.
    """

    policy: int
    reference: int
    optimizer: int
    gradients: int
    activations: int
    loading: int
    copies: int

    @property
    def beside_gpu(self) -> int:
        """This machine's memory for a rank that has a GPU."""
        return self.loading + self.copies

    @property
    def without_gpu(self) -> int:
        """This machine's memory for a rank that has no GPU."""
        measuring = self.policy + self.gradients + self.activations
        return self.policy + self.reference + self.optimizer + self.copies + max(self.loading, measuring)


def learner_memory(learner: LearnerOptions, facts: ModelFacts, trained_samples: int = 2) -> LearnerMemory:
    """The memory of a rank; see ``actors.learner.rank``.

    Args:
        trained_samples: samples of a prompt that the objective trains on.
    """
    number = 2 if learner.precision == "bf16" else 4
    trained = facts.trained_with(learner.lora_rank)
    adapter = trained - facts.conditioning if learner.lora_rank else 0
    weights = facts.trained + facts.text_encoder
    shards = learner.workers if learner.zero_stage else 1
    copies = 1 + (learner.precision == "bf16") + (learner.ema_decay > 0)
    rows = trained_samples * prompts_per_pass(learner, trained_samples)
    # With checkpointing each block keeps only its input, except the one whose gradients are being computed.
    one = TRAINING_FLOATS[learner.precision]
    floats = facts.blocks + one if learner.activation_checkpointing else facts.blocks * one
    return LearnerMemory(
        policy=number * (weights + adapter),
        reference=number * (trained if learner.lora_rank else weights),
        optimizer=round((12 / shards + number) * trained) if learner.zero_stage else 8 * trained,
        gradients=(8 + 2 * number) * trained,
        activations=number * rows * _tokens(facts) * facts.width * floats,
        loading=8 * weights,
        copies=4 * copies * trained,
    )


def prompts_per_pass(learner: LearnerOptions, trained_samples: int) -> int:
    """Prompts of a rank in one forward pass: as many samples as ``micro_batch_size`` pairs, at least one prompt's."""
    most = max(1, 2 * learner.micro_batch_size // trained_samples)
    return min(most, math.ceil(learner.batch_size / learner.workers))


def machine_memory(config: RunConfig, facts: ModelFacts) -> list[Memory]:
    """The memory of every kind of process; what a worker holds on its GPU is not included."""
    rollouts, rewards, learner = config.rollouts, config.rewards, config.learner
    samples = len(_trained_ranks(config))
    rank = learner_memory(learner, facts, samples)
    rollout = 8 * (facts.trained + facts.text_encoder) if rollouts.num_gpus else _rollout_bytes(config, facts)
    return [
        Memory(
            "rollout workers",
            rollouts.workers.most,
            PROCESS_BYTES + rollout,
            f"policy and codec, {_rollout_rows(config)} rows at a time",
            "--rollout-workers, --rollout-chunk-prompts or --num-samples",
        ),
        Memory("reward workers", rewards.workers.most, PROCESS_BYTES, "without their models", "--reward-workers"),
        Memory(
            "learner ranks",
            learner.workers,
            PROCESS_BYTES + _group_bytes(config, facts) + (rank.beside_gpu if learner.num_gpus else rank.without_gpu),
            _learner_detail(learner, rank, samples),
            "--micro-batch-size or --learner-workers, or use --precision bf16, --activation-checkpointing true or "
            "--lora-rank 32",
        ),
        Memory("job and Ray", 1, RAY_BYTES + _stored_objects(config, facts), "chunks in flight", "--rollout-workers"),
    ]


def _learner_detail(learner: LearnerOptions, rank: LearnerMemory, samples: int) -> str:
    if learner.num_gpus:
        return "loading, and copies of the trained weights"
    return (
        f"2 policies of {format_bytes(rank.policy)}, reference {format_bytes(rank.reference)}, optimiser (ZeRO "
        f"{learner.zero_stage}) {format_bytes(rank.optimizer)}, gradients {format_bytes(rank.gradients)}, activations "
        f"{format_bytes(rank.activations)} for {samples * prompts_per_pass(learner, samples)} samples"
    )


def _rollout_rows(config: RunConfig) -> int:
    return config.rollouts.chunk_prompts * config.num_samples


def _rollout_bytes(config: RunConfig, facts: ModelFacts) -> int:
    guided = _rollout_rows(config) * (2 if config.sampling.guidance_scale > 1 else 1)
    weights = facts.trained + facts.text_encoder + facts.codec
    # A policy that samples in bf16 has a second, rounded copy of its weights.
    rounded = 0 if config.rollouts.precision == "fp32" else 2 * facts.trained
    sampling = rounded + 4 * guided * _tokens(facts) * facts.width * SAMPLING_FLOATS
    decoding = 4 * DECODING_FLOATS * facts.decoded_row * min(config.num_samples, facts.decoded_at_once)
    return round(4 * weights + max(sampling, decoding))


def _stored_objects(config: RunConfig, facts: ModelFacts) -> int:
    """Bytes in Ray's object store: the policy's weights and chunks in flight."""
    latents = 4 * facts.audio_seq_len * facts.latent_channels
    waveform = 4 * facts.max_duration_s * facts.sample_rate_hz * facts.audio_channels
    chunks = IN_FLIGHT * (config.rollouts.workers.most + config.rewards.workers.most)
    return round(4 * facts.trained + chunks * _rollout_rows(config) * (latents + waveform))


def _trained_ranks(config: RunConfig) -> tuple[int, ...]:
    objective = make_objective(config.objective, config.learner.objective_options())
    return objective.ranks(config.num_samples)


def _group_bytes(config: RunConfig, facts: ModelFacts) -> int:
    """The latents of an iteration's samples that are trained on or measured, of which every rank holds all."""
    number = 2 if config.rollouts.latents_dtype == "float16" else 4
    samples = len({*_trained_ranks(config), 0, config.num_samples - 1})
    return samples * config.prompts_per_iteration * facts.audio_seq_len * facts.latent_channels * number


def _tokens(facts: ModelFacts) -> int:
    return facts.audio_seq_len + TRAINING_MAX_TOKENS + 1

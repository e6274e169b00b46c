"""What the processes of a run take of this machine's memory and of a GPU's, from options and the policy's sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from actors.options.pool_size import PoolSize
from jobs.capacity.model_facts import ModelFacts
from jobs.options.crpo import RunConfig
from jobs.options.sections import LearnerOptions
from jobs.reporting.formatting import format_bytes
from tangoflux.model.conditioning import TRAINING_MAX_TOKENS
from tangoflux.sampling import SAMPLING_FLOATS

PROCESS_BYTES = 600_000_000
"""What a worker process has of its own once it has imported torch, Ray and the models' libraries; measured."""

CUDA_BYTES = 600_000_000
"""What a process takes of a GPU beside its tensors; an estimate."""

RAY_BYTES = 900_000_000
"""Ray's own processes, the job's and the shard writer's; measured on one machine."""

TRAINING_FLOATS = {"fp32": 23, "bf16": 27}
"""Numbers kept for the backward pass per row, token, block and unit of width; measured on three sizes and with LoRA."""

DECODING_FLOATS = 4.5
"""Numbers that the codec holds per row, sample and channel of its last block; measured on two sizes."""

IN_FLIGHT = 2
"""Chunks of a rollout worker that the object store holds at once."""

LEARNER = "learner ranks"


@dataclass(frozen=True)
class Memory:
    """Bytes that processes of a kind take of this machine's memory, or of one GPU's."""

    name: str
    processes: int
    each: int
    detail: str
    options: str

    @property
    def total(self) -> int:
        """Of all its processes."""
        return self.processes * self.each


@dataclass(frozen=True)
class LearnerMemory:
    """Bytes of a learner rank at its fullest: when the new policy is measured while the optimiser is still there.

    Attributes:
        policy, reference: all their weights; with LoRA the reference has only what is trained of its own.
        optimizer: master weights, AdamW's moments and the buffer through which gradients reach the other ranks.
        gradients: of the two loss terms, and their sums over the measured pairs.
        activations: what the forward pass keeps for the backward pass.
        loading: in float32, for a moment: a policy, and the file that it is read from.
        copies: in float32 beside the training: what is trained, as it is stored, averaged and rounded from.
    """

    policy: int
    reference: int
    optimizer: int
    gradients: int
    activations: int
    loading: int
    copies: int

    @property
    def on_gpu(self) -> int:
        """Where the rank has a GPU. There are two policies: the one that was trained, and the one that is measured."""
        return 2 * self.policy + self.reference + self.optimizer + self.gradients + self.activations

    @property
    def beside_gpu(self) -> int:
        """The machine's own memory, where the rank has a GPU."""
        return self.loading + self.copies

    @property
    def without_gpu(self) -> int:
        """The machine's own memory, where the rank has none."""
        measuring = self.policy + self.gradients + self.activations
        return self.policy + self.reference + self.optimizer + self.copies + max(self.loading, measuring)


def learner_memory(learner: LearnerOptions, facts: ModelFacts) -> LearnerMemory:
    """What a rank holds; see ``actors.learner.rank``."""
    number = 2 if learner.precision == "bf16" else 4
    trained = facts.trained_with(learner.lora_rank)
    adapter = trained - facts.conditioning if learner.lora_rank else 0
    weights = facts.trained + facts.text_encoder
    shards = learner.workers if learner.zero_stage else 1
    copies = 1 + (learner.precision == "bf16") + (learner.ema_decay > 0)
    rows = 2 * pairs_at_once(learner)
    # With checkpointing a block keeps its input alone, but for the one that the backward pass is at.
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


def pairs_at_once(learner: LearnerOptions) -> int:
    """Pairs that a rank takes through one forward pass."""
    return min(learner.micro_batch_size, math.ceil(learner.batch_size / learner.workers))


def machine_memory(config: RunConfig, facts: ModelFacts) -> list[Memory]:
    """This machine's memory."""
    rollouts, rewards, learner = config.rollouts, config.rewards, config.learner
    rank = learner_memory(learner, facts)
    rollout = 8 * (facts.trained + facts.text_encoder) if rollouts.num_gpus else _rollout_bytes(config, facts)
    return [
        Memory(
            "rollout workers",
            rollouts.workers.most,
            PROCESS_BYTES + rollout,
            f"policy and codec, {_rollout_rows(config)} rows at a time",
            "--rollout-workers, --rollout-chunk-prompts or --num-samples",
        ),
        Memory(
            "reward workers", rewards.workers.most, PROCESS_BYTES, "without what their models take", "--reward-workers"
        ),
        Memory(
            LEARNER,
            learner.workers,
            PROCESS_BYTES + (rank.beside_gpu if learner.num_gpus else rank.without_gpu),
            "loading, and copies of what is trained" if learner.num_gpus else _learner_detail(learner, rank),
            "--micro-batch-size or --learner-workers, or take --precision bf16, --activation-checkpointing true or "
            "--lora-rank 32",
        ),
        Memory("job and Ray", 1, RAY_BYTES + _stored_objects(config, facts), "chunks under way", "--rollout-workers"),
    ]


def gpu_memory(config: RunConfig, facts: ModelFacts) -> list[Memory]:
    """What is on one GPU: of each kind that has GPUs as many workers as share one."""
    rollouts, rewards, learner = config.rollouts, config.rewards, config.learner
    rank = learner_memory(learner, facts)
    parts = (
        (rollouts, "rollout workers", _rollout_bytes(config, facts), f"policy and codec, {_rollout_rows(config)} rows"),
        (rewards, "reward workers", 0, "without what their models take"),
        (learner, LEARNER, rank.on_gpu, _learner_detail(learner, rank)),
    )
    return [
        Memory(
            name, min(PoolSize.parse(kind.workers).most, max(1, int(1 / kind.num_gpus))), CUDA_BYTES + size, detail, ""
        )
        for kind, name, size, detail in parts
        if kind.num_gpus
    ]


def _learner_detail(learner: LearnerOptions, rank: LearnerMemory) -> str:
    return (
        f"2 policies of {format_bytes(rank.policy)}, reference {format_bytes(rank.reference)}, optimiser (ZeRO "
        f"{learner.zero_stage}) {format_bytes(rank.optimizer)}, gradients {format_bytes(rank.gradients)}, activations "
        f"{format_bytes(rank.activations)} for {pairs_at_once(learner)} pairs"
    )


def _rollout_rows(config: RunConfig) -> int:
    return config.rollouts.chunk_prompts * config.num_samples


def _rollout_bytes(config: RunConfig, facts: ModelFacts) -> int:
    guided = _rollout_rows(config) * (2 if config.sampling.guidance_scale > 1 else 1)
    weights = facts.trained + facts.text_encoder + facts.codec
    # Where the policy samples in bf16, its weights are there once more.
    rounded = 0 if config.rollouts.precision == "fp32" else 2 * facts.trained
    sampling = rounded + 4 * guided * _tokens(facts) * facts.width * SAMPLING_FLOATS
    decoding = 4 * DECODING_FLOATS * facts.decoded_row * min(config.num_samples, facts.decoded_at_once)
    return round(4 * weights + max(sampling, decoding))


def _stored_objects(config: RunConfig, facts: ModelFacts) -> int:
    """What Ray's object store holds: the policy's weights, chunks under way, and the learner's pairs."""
    latents = 4 * facts.audio_seq_len * facts.latent_channels
    waveform = 4 * facts.max_duration_s * facts.sample_rate_hz * facts.audio_channels
    chunks = IN_FLIGHT * (config.rollouts.workers.most + config.rewards.workers.most)
    pairs = 2 * config.prompts_per_iteration * latents
    return round(4 * facts.trained + chunks * _rollout_rows(config) * (latents + waveform) + pairs)


def _tokens(facts: ModelFacts) -> int:
    return facts.audio_seq_len + TRAINING_MAX_TOKENS + 1

"""Tables of random pairs and rollouts, and a rank in this process that trains on them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.learner.alignment.groups import pair_groups
from actors.learner.alignment.task import Alignment
from actors.learner.mailbox import EventLog
from actors.learner.objectives import make_objective
from actors.learner.rank import Rank
from actors.learner.settings import LearnerJob
from actors.storage.shards import ShardWriter
from tangoflux.data.records import build_table, preference_schema, rollout_schema
from tests.actors.learner.settings import alignment_settings
from tests.tiny import WORDS

# Accumulation (2 or 3 micro-steps), clipping (the norms are above 1) and an uneven last batch (6 + 6 + 3 pairs).
SETTINGS = alignment_settings(
    batch_size=6,
    micro_batch_size=2,
    epochs=2,
    beta=10,
    winner_weight=1.0,
    learning_rate=1e-3,
    warmup_steps=2,
    max_grad_norm=0.5,
    heldout_pairs=2,
    group_share=1.0,
    min_sigma=None,
    checkpoint_every=100,
)
KEY = (0, 1, 1)
CRPO = make_objective("crpo", {"beta": 1, "winner_weight": 1.0})


def pairs(count: int, first: int = 0, channels: int = 8) -> Any:
    """A preference table of random latents, 16 to 32 frames a row; every second pair was drawn with guidance."""
    random = np.random.default_rng(first)
    frames = [16 + 8 * (index % 3) for index in range(count)]
    latents = [[random.normal(size=(n, channels)).astype(np.float32) for n in frames] for _ in range(2)]
    columns: dict[str, Any] = {
        "prompt_id": [f"p{first + index:06d}" for index in range(count)],
        "prompt": [WORDS[index % 3] for index in range(count)],
        "duration_s": [n / 15.625 for n in frames],
        "num_frames": frames,
        "guidance_scale": [3.0 if index % 2 else 1.0 for index in range(count)],
        "negative_prompt": [""] * count,
        "chosen_latents": latents[0],
        "rejected_latents": latents[1],
    }
    schema = preference_schema(32, channels)
    constants = {"string": "x", "double": 1.0, "int32": 1, "int64": 1}
    for field in schema:
        columns.setdefault(field.name, [constants.get(str(field.type))] * count)
    return build_table(columns, schema)


def rollouts(count: int, first: int = 0, samples: int = 3, scored: bool = True) -> Any:
    """A table of rollouts of random latents and rewards, 16 to 32 frames a row."""
    random = np.random.default_rng(first)
    places = [(index, k) for index in range(count) for k in range(samples)]
    frames = [16 + 8 * (index % 3) for index, _ in places]
    schema = rollout_schema(32, 8)
    columns: dict[str, Any] = {field.name: [None] * len(places) for field in schema} | {
        "prompt_id": [f"p{first + index:06d}" for index, _ in places],
        "sample_index": [k for _, k in places],
        "prompt": [WORDS[index % 3] for index, _ in places],
        "duration_s": [n / 15.625 for n in frames],
        "num_frames": frames,
        "latents": [random.normal(size=(n, 8)).astype(np.float32) for n in frames],
        "iteration": [1] * len(places),
        "reward": random.normal(size=len(places)).tolist() if scored else [None] * len(places),
    }
    return build_table(columns, schema)


def stored(directory: Path, *tables: Any) -> ShardWriter[Path]:
    writer = ShardWriter(directory)
    for part, table in enumerate(tables):
        writer.write(part, table)
    return writer


def with_objective(name: str, **options: Any) -> Any:
    return dataclasses.replace(SETTINGS, objective=make_objective(name, options))


def lone_rank(policy_dir: Path, tmp_path: Path, **changes: Any) -> Rank:
    """Two steps of two micro-steps each (8 + 7 pairs), unless ``changes`` say otherwise."""
    tmp_path.mkdir(exist_ok=True)
    settings = dataclasses.replace(SETTINGS, **{"batch_size": 8, "micro_batch_size": 4, "epochs": 1, **changes})
    job = LearnerJob(policy_dir, tmp_path / "weights.safetensors", tmp_path / "checkpoints", settings, 0, 1)
    return Rank(job, pair_groups([pairs(17)]), 0, torch.device("cpu"), EventLog())


def reference_of(rank: Rank) -> Any:
    assert isinstance(rank.task, Alignment)
    return rank.task.reference

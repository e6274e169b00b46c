"""Small tables of rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tangoflux.data.records import build_table, rollout_schema


def rollouts(
    rewards: Mapping[tuple[str, int], float | None],
    failures: Mapping[tuple[str, int], str] | None = None,
    latents: Mapping[tuple[str, int], NDArray[Any]] | None = None,
    rms: float = 0.1,
    peak: float = 0.5,
) -> pa.Table:
    """Rollouts of iteration 1 by (prompt id, sample index), in the mapping's order: 4 frames of 2 channels, 3 valid."""
    keys, count = list(rewards), len(rewards)
    columns = {
        "iteration": [1] * count,
        "prompt_id": [prompt for prompt, _ in keys],
        "sample_index": [k for _, k in keys],
        "prompt": [f"caption {prompt}" for prompt, _ in keys],
        "duration_s": [1.5] * count,
        "policy_version": [0] * count,
        "seed": [100 * k + len(prompt) for prompt, k in keys],
        "num_steps": [12] * count,
        "guidance_scale": [3.0] * count,
        "negative_prompt": [""] * count,
        "num_frames": [3] * count,
        "latents": [(latents or {}).get(key, default_latents(key)) for key in keys],
        "reward": [rewards[key] for key in keys],
        "reward_components": [[{"name": "fake", "score": rewards[key]}] for key in keys],
        "reward_model": ["fake"] * count,
        "reward_checkpoint": ["none"] * count,
        "failure": [(failures or {}).get(key) for key in keys],
        "rms": [rms] * count,
        "peak": [peak] * count,
        "created_at": [datetime.now(UTC)] * count,
        "worker": ["a"] * count,
        "seconds": [0.1] * count,
    }
    return build_table(columns, rollout_schema(4, 2))


def default_latents(key: tuple[str, int]) -> NDArray[Any]:
    """Latents that tell which sample they are of."""
    prompt, k = key
    seed = [ord(letter) for letter in prompt] + [k]
    return np.random.default_rng(seed).normal(size=(3, 2)).astype(np.float32)

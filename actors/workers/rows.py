"""Rows of ``rollout_schema``: from a sampled chunk, and with the scores of a reward model. Without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.workers.chunk import Chunk
from actors.workers.messages import NOT_SCORED
from tangoflux.data.records import build_table


@dataclass(frozen=True)
class Scores:
    """What a reward, which may be made of several, said of some rows.

    Attributes:
        model: the reward's name.
        checkpoint: its weights.
        rewards: (rows,) float64, NaN where there is no score.
        failures: for each row why there is none, or None.
        components: names of the rewards that it is made of, each with its raw scores, (rows,), NaN where there is none.
    """

    model: str
    checkpoint: str
    rewards: NDArray[np.float64]
    failures: list[str | None]
    components: list[tuple[str, NDArray[np.float64]]]


def unscored_rows(
    chunk: Chunk,
    latents: Sequence[NDArray[Any]],
    waveforms: Sequence[Sequence[NDArray[np.float32]]],
    schema: pa.Schema,
    provenance: Mapping[str, Any],
) -> pa.Table:
    """The rows of a sampled chunk in canonical order, without rewards.

    Args:
        latents: for each prompt (samples, frames, channels), as they are stored.
        waveforms: for each prompt and sample (audio_channels, samples).
        schema: a ``rollout_schema``.
        provenance: columns that have the same value in all rows.
    """
    samples = [(index, k) for index, group in enumerate(latents) for k in range(len(group))]
    prompts = [chunk.prompts[index] for index, _ in samples]
    own: dict[str, Sequence[Any]] = {
        "prompt_id": [prompt.id for prompt in prompts],
        "sample_index": [k for _, k in samples],
        "prompt": [prompt.text for prompt in prompts],
        "duration_s": [prompt.duration_s for prompt in prompts],
        "seed": [chunk.seeds[index][k] for index, k in samples],
        "num_frames": [latents[index].shape[1] for index, _ in samples],
        "latents": [latents[index][k] for index, k in samples],
        **loudness([waveforms[index][k] for index, k in samples]),
    }
    shared = {"iteration": chunk.iteration, "reward_model": "", "reward_checkpoint": "", "failure": NOT_SCORED}
    shared |= {"reward": None, "reward_components": None, **provenance}
    return build_table(own | {name: [value] * len(samples) for name, value in shared.items()}, schema)


def with_scores(rows: pa.Table, scores: Scores) -> pa.Table:
    """The rows with these rewards; everything else stays."""
    rewards = [None if why else value for value, why in zip(scores.rewards.tolist(), scores.failures, strict=True)]
    return replace_columns(
        rows,
        {
            "reward": rewards,
            "reward_components": [_components(scores, row) for row in range(len(rows))],
            "reward_model": [scores.model] * len(rows),
            "reward_checkpoint": [scores.checkpoint] * len(rows),
            "failure": scores.failures,
        },
    )


def _components(scores: Scores, row: int) -> list[dict[str, str | float | None]]:
    """A value of ``reward_components``."""
    return [
        {"name": name, "score": float(values[row]) if np.isfinite(values[row]) else None}
        for name, values in scores.components
    ]


def replace_columns(table: pa.Table, columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """The table with other values in some columns, of the same types."""
    for name, values in columns.items():
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table


def loudness(waveforms: Sequence[NDArray[np.float32]]) -> dict[str, list[np.float32]]:
    """``rms`` (root mean square) and ``peak`` (largest absolute value) of each waveform."""
    return {
        "rms": [np.float32(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) for waveform in waveforms],
        "peak": [np.float32(np.abs(waveform).max()) for waveform in waveforms],
    }

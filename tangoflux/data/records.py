"""The Arrow tables that jobs write: rollouts (every sample with its latents and reward), preference pairs, clips.

Latents are lists of frames, and a frame is a fixed-size list of channels, which pyarrow, Ray Data and Hugging Face
``datasets`` can all read. ``datasets`` cannot read the Arrow tensor extension, and pyarrow (21 to 25) returns garbage
for ``take`` and ``filter`` on a slice of fixed-size lists of fixed-size lists. All rows of a run have the number of
frames of the longest possible prompt; those after a row's ``num_frames`` are zero.
"""

# pyarrow has no type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportAttributeAccessIssue=false
from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tangoflux.errors import DataError

LatentsDtype = Literal["float32", "float16"]

VOLATILE = ("created_at", "worker", "seconds")
"""Columns that may differ between two runs of one seed."""

FRAMES_KEY = "frames"
"""Metadata key of a latents field: frames per row."""

COMPONENTS = pa.list_(pa.field("element", pa.struct([("name", pa.string()), ("score", pa.float64())])))
"""The raw score of every part of a reward: a list, since runs have different rewards and their rows one schema."""

SORT_KEYS = ("iteration", "prompt_id", "sample_index")
"""The canonical order; preferences have no ``sample_index``."""


def latents_field(name: str, max_frames: int, channels: int, dtype: LatentsDtype = "float32") -> pa.Field:
    """A column of ``max_frames`` x ``channels`` numbers per row: channels are in its type, frames in its metadata."""
    frame = pa.list_(pa.field("element", pa.float16() if dtype == "float16" else pa.float32()), channels)
    return pa.field(name, pa.list_(pa.field("element", frame)), metadata={FRAMES_KEY: str(max_frames)})


def is_latents(column_type: pa.DataType) -> bool:
    """Whether a column of this type holds latents."""
    return pa.types.is_list(column_type) and pa.types.is_fixed_size_list(column_type.value_type)


def latents_shape(field: pa.Field) -> tuple[int, int, LatentsDtype]:
    """``max_frames``, ``channels`` and ``dtype`` of a latents column.

    Raises:
        DataError: it is not a latents column, or another program has dropped its metadata.
    """
    if not is_latents(field.type) or FRAMES_KEY.encode() not in (field.metadata or {}):
        raise DataError(f"column {field.name} ({field.type}) is not a latents column of tangoflux.data.records")
    frame = field.type.value_type
    dtype: LatentsDtype = "float16" if frame.value_type == pa.float16() else "float32"
    return int(field.metadata[FRAMES_KEY.encode()]), frame.list_size, dtype


def rollout_schema(max_frames: int, channels: int, dtype: LatentsDtype = "float32") -> pa.Schema:
    """One row per sample. ``reward`` is null if ``failure`` has a reason.

    ``reward_components`` holds what each of the rewards said that ``reward`` was made of, with a null where one said
    nothing; it is null before the row is scored.
    """
    return pa.schema(
        [
            ("iteration", pa.int32()),
            ("prompt_id", pa.string()),
            ("sample_index", pa.int32()),
            ("prompt", pa.string()),
            ("duration_s", pa.float64()),
            ("policy_version", pa.int32()),
            ("seed", pa.int64()),
            ("num_steps", pa.int32()),
            ("guidance_scale", pa.float64()),
            ("negative_prompt", pa.string()),
            ("num_frames", pa.int32()),
            latents_field("latents", max_frames, channels, dtype),
            ("reward", pa.float64()),
            ("reward_components", COMPONENTS),
            ("reward_model", pa.string()),
            ("reward_checkpoint", pa.string()),
            ("failure", pa.string()),
            ("rms", pa.float32()),
            ("peak", pa.float32()),
            ("created_at", pa.timestamp("us", "UTC")),
            ("worker", pa.string()),
            ("seconds", pa.float32()),
        ]
    )


def preference_schema(max_frames: int, channels: int, dtype: LatentsDtype = "float32") -> pa.Schema:
    """One row per pair: the samples of one prompt with the highest and the lowest reward."""
    return pa.schema(
        [
            ("iteration", pa.int32()),
            ("prompt_id", pa.string()),
            ("prompt", pa.string()),
            ("duration_s", pa.float64()),
            ("policy_version", pa.int32()),
            ("num_frames", pa.int32()),
            ("chosen_index", pa.int32()),
            ("rejected_index", pa.int32()),
            ("chosen_reward", pa.float64()),
            ("rejected_reward", pa.float64()),
            ("chosen_seed", pa.int64()),
            ("rejected_seed", pa.int64()),
            ("num_steps", pa.int32()),
            ("guidance_scale", pa.float64()),
            ("negative_prompt", pa.string()),
            ("reward_model", pa.string()),
            ("reward_checkpoint", pa.string()),
            latents_field("chosen_latents", max_frames, channels, dtype),
            latents_field("rejected_latents", max_frames, channels, dtype),
            ("created_at", pa.timestamp("us", "UTC")),
        ]
    )


def latent_schema(max_frames: int, channels: int, dtype: LatentsDtype = "float32") -> pa.Schema:
    """One row per clip of real audio: the codec's posterior, from which pretraining draws latents.

    ``scale`` is the standard deviation; ``duration_s`` is the length of the encoded audio in seconds.
    """
    return pa.schema(
        [
            ("id", pa.string()),
            ("captions", pa.list_(pa.string())),
            ("duration_s", pa.float64()),
            ("num_frames", pa.int32()),
            ("source", pa.string()),
            ("start_s", pa.float64()),
            latents_field("mean", max_frames, channels, dtype),
            latents_field("scale", max_frames, channels, dtype),
        ]
    )


def build_table(columns: Mapping[str, Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """A table of ``schema`` from its columns by name; latents columns are sequences of arrays (frames, channels).

    Raises:
        DataError: a column is missing or unknown, or its values do not fit its type.
    """
    if set(columns) != set(schema.names):
        missing, unknown = sorted(set(schema.names) - set(columns)), sorted(set(columns) - set(schema.names))
        raise DataError(f"columns do not fit the schema: missing {missing}, unknown {unknown}")
    return pa.Table.from_arrays([_column(columns[field.name], field) for field in schema], schema=schema)


def latents_column(rows: Sequence[NDArray[Any]], field: pa.Field) -> pa.Array:
    """Packs arrays (frames, channels) into a column, zero-padded to the field's number of frames.

    Raises:
        DataError: an array has more frames or other channels than the field.
    """
    frames, channels, dtype = latents_shape(field)
    padded = np.zeros((len(rows), frames, channels), dtype)
    for index, row in enumerate(rows):
        if row.ndim != 2 or row.shape[0] > frames or row.shape[1] != channels:
            raise DataError(f"latents of row {index} are {row.shape}, expected (at most {frames}, {channels})")
        padded[index, : len(row)] = row
    starts = pa.array(np.arange(len(rows) + 1) * frames, pa.int32())
    per_frame = pa.FixedSizeListArray.from_arrays(pa.array(padded.reshape(-1)), type=field.type.value_type)
    return pa.ListArray.from_arrays(starts, per_frame, type=field.type)


def latents_array(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """A latents column as an array (rows, max_frames, channels), without a copy if it is one chunk.

    Raises:
        DataError: rows have different numbers of frames.
    """
    column = _one_chunk(column)
    lengths = set(pc.unique(pc.list_value_length(column)).to_pylist())
    if len(lengths) > 1:
        raise DataError(f"latents have {sorted(lengths)} frames per row, expected the same number in all")
    numbers = column.flatten().flatten().to_numpy(zero_copy_only=True)
    return numbers.reshape(len(column), lengths.pop() if lengths else 0, column.type.value_type.list_size)


def with_tensors(table: pa.Table) -> pa.Table:
    """The table with its latents columns as Arrow tensors, which Ray Data converts to arrays and torch tensors.

    Example: ``ray.data.read_parquet(files).map_batches(with_tensors, batch_format="pyarrow")``.
    """
    for index, field in enumerate(table.schema):
        if is_latents(field.type):
            frames, channels, _ = latents_shape(field)
            numbers = _one_chunk(table.column(index)).flatten().flatten()
            tensors = pa.ExtensionArray.from_storage(
                pa.fixed_shape_tensor(numbers.type, [frames, channels]),
                pa.FixedSizeListArray.from_arrays(numbers, frames * channels),
            )
            table = table.set_column(index, field.name, tensors)
    return table


def canonical(table: pa.Table) -> pa.Table:
    """The part that two runs of one seed must share: sorted rows in one chunk, without the ``VOLATILE`` columns."""
    table = table.drop_columns([name for name in VOLATILE if name in table.column_names])
    keys = [(name, "ascending") for name in SORT_KEYS if name in table.column_names]
    bare = pa.schema([field.remove_metadata() for field in table.schema])
    return table.sort_by(keys).combine_chunks().cast(bare)


def canonical_sha256(table: pa.Table) -> str:
    """SHA-256 of the canonical table's bytes: names, types and values, to the last bit."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, canonical(table).schema) as writer:
        writer.write_table(canonical(table))
    return hashlib.sha256(sink.getvalue()).hexdigest()


def _column(values: Sequence[Any], field: pa.Field) -> pa.Array:
    if is_latents(field.type):
        return latents_column(values, field)
    try:
        return pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise DataError(f"column {field.name} cannot hold its values as {field.type}: {error}") from error


def _one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

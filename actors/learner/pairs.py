"""The learner's data: preference shards, checked and put into shared memory."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from actors.learner.batches import COLUMNS
from actors.storage.shards import Shards
from tangoflux.data.records import is_latents, latents_array
from tangoflux.errors import DataError


def read_pairs(shards: Shards) -> ray.data.Dataset:
    """The dataset in shared memory, one block a shard, in the shards' order.

    The driver reads and checks the shards: Ray Data's own Parquet reader would start processes for seconds on every
    iteration, and would wait for ever on a machine whose processors the ranks have taken.

    Raises:
        DataError: there are no pairs, or they lack columns or are not finite.
    """
    blocks: list[Any] = []
    for part, table in shards.tables(verify=True):
        if len(table):
            blocks.append(ray.put(_checked(table, f"{shards.directory} shard {part}")))
    if not blocks:
        raise DataError(f"{shards.directory} holds no preference pairs: nothing can be learnt from it")
    dataset = ray.data.from_arrow_refs(blocks)
    dataset.context.enable_progress_bars = False
    return dataset


def _checked(table: pa.Table, source: str) -> pa.Table:
    """The learner's columns of a shard, each in one piece."""
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(f"{source} lacks the columns {', '.join(missing)}")
    table = table.select(list(COLUMNS)).combine_chunks()
    empty = [name for name in COLUMNS if table[name].null_count]
    if empty:
        raise DataError(f"{source} has empty fields in {', '.join(empty)}")
    frames = table["num_frames"].to_numpy()
    for name in ("chosen_latents", "rejected_latents"):
        if not is_latents(table.schema.field(name).type):
            raise DataError(
                f"{source}: {name} is {table.schema.field(name).type}, expected tangoflux.data.records' type"
            )
        latents = latents_array(table[name])
        if not np.isfinite(latents).all():
            raise DataError(f"{source}: {name} holds values that are not finite")
        if frames.min() < 1 or frames.max() > latents.shape[1]:
            raise DataError(f"{source}: num_frames must be from 1 to the {latents.shape[1]} frames of {name}")
    return table


def fingerprint(shards: Shards) -> str:
    """Tells these pairs from others; a checkpoint counts for the pairs that it was made on only."""
    hashes = [shard.sha256 for shard in shards.shards().values()]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:12]

"""The shards of an alignment: every rank reads, verifies and checks them itself."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from actors.learner.groups import PAIR_COLUMNS
from actors.storage.shards import Shards
from tangoflux.data.records import is_latents, latents_array
from tangoflux.errors import DataError


def read_pairs(shards: Shards) -> list[pa.Table]:
    """The learner's columns of all shards in their order, each in one piece.

    Ray Data is not used: its Parquet reader takes seconds to start in every iteration, and would wait forever on a
    machine whose processors the ranks occupy.

    Raises:
        DataError: a shard was changed after it was written, misses columns, or contains values that are not finite.
    """
    tables = shards.tables(verify=True)
    return [_checked(table, f"{shards.directory} shard {part}") for part, table in tables if len(table)]


def check_not_empty(shards: Shards) -> None:
    """Checks that there are pairs, by the manifest alone.

    Raises:
        DataError: there are none.
    """
    if not any(shard.rows for shard in shards.shards().values()):
        raise DataError(f"{shards.directory} holds no preference pairs: there is nothing to train on")


def _checked(table: pa.Table, source: str) -> pa.Table:
    """The learner's columns of a shard, each in one piece."""
    missing = [name for name in PAIR_COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(f"{source} has no columns {', '.join(missing)}")
    table = table.select(list(PAIR_COLUMNS)).combine_chunks()
    empty = [name for name in PAIR_COLUMNS if table[name].null_count]
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

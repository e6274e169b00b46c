from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from tangoflux.data.records import (
    COMPONENTS,
    VOLATILE,
    LatentsDtype,
    build_table,
    canonical,
    canonical_sha256,
    latents_array,
    latents_column,
    latents_field,
    latents_shape,
    preference_schema,
    rollout_schema,
    with_tensors,
)
from tangoflux.errors import DataError
from tests.tables import rollouts

FIELD = latents_field("latents", 5, 3)
SCORED = [{"name": "clap", "score": 0.5}, {"name": "share", "score": None}]
LATENTS = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)


def test_rows_are_padded_with_zeros_after_their_own_frames() -> None:
    column = latents_column([LATENTS[0, :2], LATENTS[1]], FIELD)
    array = latents_array(column)
    np.testing.assert_array_equal(array[0, :2], LATENTS[0, :2])
    np.testing.assert_array_equal(array[0, 2:], 0)
    np.testing.assert_array_equal(array[1], LATENTS[1])


def test_latents_come_back_as_they_were_from_slices_and_several_chunks() -> None:
    column = latents_column(list(LATENTS), FIELD)
    np.testing.assert_array_equal(latents_array(column.slice(2, 3)), LATENTS[2:5])
    np.testing.assert_array_equal(latents_array(pa.chunked_array([column[:2], column[2:]])), LATENTS)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_type_tells_the_shape(dtype: LatentsDtype) -> None:
    assert latents_shape(latents_field("latents", 645, 64, dtype)) == (645, 64, dtype)
    assert latents_array(latents_column([LATENTS[0]], latents_field("x", 5, 3, dtype))).dtype == np.dtype(dtype)


@pytest.mark.parametrize("shape", [(6, 3), (5, 4), (5,)])
def test_latents_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"latents of row 0 are .* expected \(at most 5, 3\)"):
        latents_column([np.zeros(shape, np.float32)], FIELD)


def test_rows_of_different_lengths_are_refused() -> None:
    ragged = pa.concat_arrays([latents_column([LATENTS[0, :n]], latents_field("x", n, 3)) for n in (2, 4)])
    with pytest.raises(DataError, match=r"latents have \[2, 4\] frames per row"):
        latents_array(ragged)


def test_a_column_that_lost_its_number_of_frames_is_refused() -> None:
    with pytest.raises(DataError, match=r"column latents .* is not a latents column"):
        latents_shape(FIELD.remove_metadata())


def test_rows_taken_from_slices_are_the_right_ones() -> None:
    # pyarrow 21 to 25 fails this for fixed-size lists of fixed-size lists.
    part = pa.table({"latents": latents_column(list(LATENTS), FIELD)}).slice(2, 4)
    np.testing.assert_array_equal(latents_array(part.take(pa.array([3, 1]))["latents"]), LATENTS[[5, 3]])
    np.testing.assert_array_equal(latents_array(part.filter(pa.array([False, True] * 2))["latents"]), LATENTS[[3, 5]])


def test_missing_and_unknown_columns_are_named() -> None:
    with pytest.raises(DataError, match=r"missing \['b'\], unknown \['c'\]"):
        build_table({"a": [1], "c": [1]}, pa.schema([("a", pa.int32()), ("b", pa.int32())]))


def test_values_of_the_wrong_type_are_refused_with_their_column() -> None:
    with pytest.raises(DataError, match="column a cannot hold its values as int32"):
        build_table({"a": ["x"]}, pa.schema([("a", pa.int32())]))


def test_schemas_start_with_their_keys() -> None:
    assert rollout_schema(5, 3).names[:3] == ["iteration", "prompt_id", "sample_index"]
    assert preference_schema(5, 3).names[:2] == ["iteration", "prompt_id"]


def test_order_and_volatile_columns_do_not_change_the_canonical_bytes() -> None:
    table = rollouts({("p1", 0): 0.1, ("p0", 1): 0.2, ("p0", 0): 0.3})
    later = table.set_column(table.column_names.index("worker"), "worker", pa.array(["b"] * 3))
    pieces = pa.concat_tables([later.slice(2), later.slice(0, 2)])
    assert canonical_sha256(pieces) == canonical_sha256(table)
    assert canonical(table)["prompt_id"].to_pylist() == ["p0", "p0", "p1"]
    assert canonical(table)["sample_index"].to_pylist() == [0, 1, 0]
    assert not set(VOLATILE) & set(canonical(table).column_names)


def test_any_other_change_changes_the_canonical_bytes() -> None:
    table = rollouts({("p0", 0): 0.1})
    for name in set(table.column_names) - set(VOLATILE) - {"latents"}:
        column = table[name]
        other: Any = {pa.string(): "other", COMPONENTS: SCORED}.get(column.type) or column[0].as_py() + 1
        changed = table.set_column(table.column_names.index(name), name, pa.array([other], column.type))
        assert canonical_sha256(changed) != canonical_sha256(table), name
    latents = latents_array(table["latents"]).copy()
    latents[0, 0, 0] = np.nextafter(latents[0, 0, 0], np.float32(np.inf))
    index = table.column_names.index("latents")
    changed = table.set_column(index, "latents", latents_column(list(latents), table.schema.field("latents")))
    assert canonical_sha256(changed) != canonical_sha256(table)


@pytest.fixture(params=["float32", "float16"])
def shards(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, NDArray[Any]]:
    """A directory of two shards of three rows, and their latents."""
    schema = pa.schema(
        [
            ("prompt_id", pa.string()),
            latents_field("latents", 5, 3, request.param),
            ("reward", pa.float64()),
            ("reward_components", COMPONENTS),
            ("created_at", pa.timestamp("us", "UTC")),
        ]
    )
    for part in (0, 1):
        rows = slice(3 * part, 3 * part + 3)
        columns = {
            "prompt_id": [f"p{row}" for row in range(3 * part, 3 * part + 3)],
            "latents": list(LATENTS[rows]),
            "reward": [0.5, None, 0.7],
            "reward_components": [SCORED, None, SCORED],
            "created_at": [datetime.now(UTC)] * 3,
        }
        pq.write_table(build_table(columns, schema), tmp_path / f"part-{part:05d}.parquet")
    return tmp_path, LATENTS.astype(request.param)


def test_shards_are_read_by_pyarrow(shards: tuple[Path, NDArray[Any]]) -> None:
    directory, latents = shards
    table = pyarrow.dataset.dataset(directory, format="parquet").to_table()
    np.testing.assert_array_equal(latents_array(table["latents"]), latents)
    assert table["reward"].to_pylist() == [0.5, None, 0.7] * 2
    assert table["reward_components"].to_pylist() == [SCORED, None, SCORED] * 2
    assert latents_shape(pq.read_table(directory).schema.field("latents"))[:2] == (5, 3)


def test_shards_are_read_by_hugging_face_datasets(shards: tuple[Path, NDArray[Any]], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    directory, latents = shards
    cache = tmp_path.parent / f"{tmp_path.name}-cache"
    loaded = datasets.load_dataset("parquet", data_dir=os.fspath(directory), split="train", cache_dir=cache)
    np.testing.assert_array_equal(loaded.with_format("numpy")[:]["latents"], latents)
    assert tuple(loaded.with_format("torch", columns=["latents"])[1]["latents"].shape) == (5, 3)
    assert list(loaded["prompt_id"][:2]) == ["p0", "p1"]
    assert loaded[1]["reward"] is None and loaded[1]["reward_components"] is None
    assert loaded[0]["reward_components"] == SCORED
    shuffled = loaded.shuffle(seed=0).with_format("numpy")[:]
    np.testing.assert_array_equal(shuffled["latents"], latents[[int(name[1:]) for name in shuffled["prompt_id"]]])


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_shards_are_read_by_ray_data(shards: tuple[Path, NDArray[Any]]) -> None:
    import ray.data

    directory, latents = shards
    loaded = ray.data.read_parquet(os.fspath(directory))
    rows = sorted(loaded.random_shuffle(seed=0).take_all(), key=lambda row: row["prompt_id"])
    np.testing.assert_array_equal(np.array([row["latents"] for row in rows], latents.dtype), latents)
    assert list(rows[0]["reward_components"]) == SCORED and rows[1]["reward_components"] is None
    tensors = loaded.map_batches(with_tensors, batch_format="pyarrow").take_batch(6)
    order = np.argsort(tensors["prompt_id"])
    np.testing.assert_array_equal(tensors["latents"][order], latents)

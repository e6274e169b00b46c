from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from actors.storage.metrics import MetricsLog, read_history
from tangoflux.errors import DataError


def test_events_are_readable_the_moment_they_are_written(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "run" / "metrics.jsonl")
    log.write("run", seed=3)
    assert [row["event"] for row in log.read()] == ["run"]
    log.write("end", seconds=2.5)
    assert log.read()[1]["seconds"] == 2.5
    assert all(row["time"] > 1e9 for row in log.read())


def test_numbers_of_numpy_and_torch_become_plain_and_not_finite_ones_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    written = log.write(
        "step", a=np.float32(0.5), b=torch.tensor(2), c=float("nan"), d=[np.inf, 1], e={"f": np.int64(4)}
    )
    row = log.read()[0]
    assert row == written
    assert (row["a"], row["b"], row["c"], row["d"], row["e"]) == (0.5, 2, None, [None, 1], {"f": 4})


def test_text_of_any_kind_is_kept_on_its_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    text = 'two\nlines, \u2028, "quotes", 鳥 and half an emoji \ud83e'
    log.write("run", command=text)
    log.write("end")
    assert log.read()[0]["command"] == text
    assert len(log.read()) == 2


def test_a_torn_last_line_is_ignored_by_readers_and_cut_off_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path).write("run")
    with path.open("a") as file:
        file.write('{"event": "iterat')
    assert len(read_history(path).iterations) == 0
    MetricsLog(path).write("iteration", iteration=0)
    assert [row["iteration"] for row in read_history(path).iterations] == [0]


def test_a_damaged_line_inside_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "run"}\nnot json\n{"event": "end"}\n')
    with pytest.raises(DataError, match="line 2"):
        read_history(path)
    path.write_text("[1, 2]\n")
    with pytest.raises(DataError, match="line 1"):
        read_history(path)


def test_what_a_resumed_run_measures_again_replaces_what_it_measured_before(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write("run", seed=0)
    for iteration in (0, 1):
        log.write("iteration", iteration=iteration, samples_per_second=1.0)
    log.write("step", iteration=2, step=0, loss=9.0)
    log.write("end", iterations=1)
    log.write("run", seed=1)
    log.write("step", iteration=2, step=0, loss=1.0)
    log.write("step", iteration=2, step=1, loss=2.0)
    log.write("iteration", iteration=1, samples_per_second=2.0)

    history = read_history(log.path)
    assert history.run["seed"] == 1
    assert [row["samples_per_second"] for row in history.iterations] == [1.0, 2.0]
    assert [row["loss"] for row in history.steps] == [1.0, 2.0]
    assert history.end == {}


def test_no_file_is_an_empty_history(tmp_path: Path) -> None:
    history = read_history(tmp_path / "metrics.jsonl")
    assert (history.run, history.iterations, history.steps, history.end) == ({}, [], [], {})


def test_a_directory_in_the_files_place_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is in the way: remove it or choose another directory"):
        read_history(tmp_path)

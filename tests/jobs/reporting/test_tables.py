from __future__ import annotations

import pytest

from jobs.reporting.tables import format_table


def test_columns_are_aligned_and_lines_end_where_their_text_ends() -> None:
    rows = [("disk", "each", ""), ("rollouts", "16.6 GB", "float32"), ("", "2 kB", "")]
    assert format_table(rows, left=(0, 2)).split("\n") == [
        "disk         each",
        "rollouts  16.6 GB  float32",
        "             2 kB",
    ]


def test_neither_a_long_cell_nor_one_that_looks_like_markup_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    text = "[red]x[/red] :smile: ± " + "word " * 60 + "end"
    assert format_table([(text, "1")]) == f"{text}  1"

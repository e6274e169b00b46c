from __future__ import annotations

import io
import os
import pty
import re
import select
import time
from pathlib import Path

import pytest

from jobs.reporting import display as module
from jobs.reporting.display import Display
from jobs.reporting.formatting import MISSING

HELDOUT = {"reward": {"mean": 0.359, "se": 0.014, "delta": 0.047, "delta_se": 0.011}}


def test_without_a_terminal_a_stage_is_two_lines(tmp_path: Path) -> None:
    stream = io.StringIO()
    with Display(3, stream) as display, display.stage(1, "rollouts", 480, "samples") as stage:
        for _ in range(48):
            stage.advance(10)
    first, last = stream.getvalue().splitlines()
    assert first == "iteration 1/3 · rollouts · started (480 samples)"
    assert re.fullmatch(r"iteration 1/3 · rollouts · done in \d+\.\d s · [\d.]+ samples/s", last)


def test_a_long_stage_gets_a_line_in_between_with_progress_and_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLAIN_INTERVAL_S", 0.02)
    stream = io.StringIO()
    with Display(3, stream) as display, display.stage(2, "learner", 4, "steps") as stage:
        display.figures(**HELDOUT)
        stage.advance()
        time.sleep(0.03)
        stage.advance(loss=0.6931)
    line = stream.getvalue().splitlines()[1]
    assert line.startswith("iteration 2/3 · learner · 2/4 steps")
    assert "left" in line and "reward 0.359 (+0.047 ± 0.011)" in line and "loss 0.693" in line


def test_the_time_left_does_not_count_what_passed_before_the_first_progress() -> None:
    with Display(1, io.StringIO()).stage(1, "learner", 12, "steps") as stage:
        time.sleep(0.5)
        stage.advance()
        assert "left" not in stage.progress()
        time.sleep(0.01)
        stage.advance()
        assert stage.progress().endswith((" 1.0 s left", " 2.0 s left")), "with the first 0.5 s it would be 3 s"


def test_what_an_earlier_start_did_counts_as_done_but_not_as_speed() -> None:
    with Display(1, io.StringIO()).stage(1, "rollouts", 1000) as stage:
        stage.skip(900)
        assert stage.progress() == "900/1000 samples"
        time.sleep(0.02)
        stage.advance(10)
        assert stage.done == 910 and 0 < stage.rate < 10 / 0.02


def test_seconds_of_every_stage_are_kept_by_iteration() -> None:
    display = Display(1, io.StringIO())
    for iteration, name, seconds in (
        (0, "held-out", 0.0),
        (1, "rollouts", 0.0),
        (1, "learner", 0.2),
        (1, "learner", 0.1),
    ):
        with display.stage(iteration, name):
            time.sleep(seconds)
    assert list(display.seconds[0]) == ["held-out"] and list(display.seconds[1]) == ["rollouts", "learner"]
    assert display.seconds[1]["learner"] >= 0.3, "of both times"


def test_a_stage_that_fails_says_so_and_lets_the_error_pass() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyError), Display(1, stream) as display, display.stage(0, "held-out", 5):
        raise KeyError("x")
    assert "base · held-out · stopped after" in stream.getvalue()


def test_text_in_square_brackets_is_printed_as_it_is() -> None:
    stream = io.StringIO()
    Display(1, stream).note("[/red] a [bold]prompt[/bold] " + "x" * 200)
    assert stream.getvalue() == "[/red] a [bold]prompt[/bold] " + "x" * 200 + "\n"


def test_a_stream_of_another_encoding_gets_what_it_can_write() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    display = Display(1, stream)
    with display.stage(1, "鳥", 2) as stage:
        stage.advance()
    display.summary(HELDOUT, HELDOUT, {"report": Path("report.html")})
    stream.flush()
    assert b"0.359 +/- 0.014" in raw.getvalue() and b"iteration 1/1 | ?" in raw.getvalue()


def test_the_summary_sets_base_against_aligned_and_says_where_to_look() -> None:
    stream = io.StringIO()
    base = {"reward": {"mean": 0.312, "se": 0.014, "delta": None, "delta_se": None}}
    Display(3, stream).summary(base, HELDOUT, {"report": Path("runs/a/report.html"), "samples": Path("runs/a/samples")})
    text = stream.getvalue()
    assert re.search(r"reward +0.312 ± 0.014 +0.359 ± 0.014 +\+0.047 ± 0.011", text)
    assert "report   runs/a/report.html" in text and "samples  runs/a/samples" in text


def test_the_summary_of_a_base_alone_has_dashes() -> None:
    stream = io.StringIO()
    Display(0, stream).summary(HELDOUT, None, {})
    assert re.search(rf"reward +0.359 ± 0.014 +{MISSING} +{MISSING}", stream.getvalue())


def read_all(reader: int) -> str:
    """What a terminal has got so far, which one read may give only a part of."""
    parts: list[bytes] = []
    while select.select([reader], [], [], 0.1)[0]:
        parts.append(os.read(reader, 1 << 16))
    return b"".join(parts).decode()


def test_in_a_terminal_there_is_one_live_view_and_one_line_stays_for_each_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w", encoding="utf-8") as terminal:
        with Display(3, terminal) as display, display.stage(1, "rollouts", 10) as stage:
            stage.advance(4, loss=0.5)
            time.sleep(0.4)
            shown = read_all(reader)
        left = read_all(reader)
    os.close(reader)
    assert "4/10 samples" in shown and "━" in shown and "loss 0.500" in shown
    assert "iteration 1/3 · rollouts · done in" in left
    assert "\x1b[?25h" in left  # the cursor is back

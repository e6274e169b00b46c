from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actors.storage.metrics import MetricsLog
from actors.storage.samples import SampleFolder
from jobs.report import main
from jobs.reporting.formatting import TIMES
from jobs.reporting.html.crpo_report import write_report
from tangoflux.data.flac import encode_flac
from tangoflux.errors import DataError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def test_a_whole_run_has_every_part(make_run: Callable[..., Path]) -> None:
    page = write_report(make_run()).read_text(encoding="utf-8")
    assert "3 iterations of CRPO" in page and "This is the miniature" in page
    assert "+0.052" in page and "up by 6.2 standard errors" in page and "no clear change" in page
    assert page.count("<svg") == 5 + 6 + 5
    assert page.count("data:audio/flac") == page.count("data:image/png") == 4 * 6
    assert "Reward and truth part: reward up, recall down by 4.0 standard errors" in page
    assert "recall in iteration 2; recall in iteration 3." in page and "Change by kind of prompt" in page
    for words in (
        "Implicit margin",
        "Gradient norm",
        "Rollouts: clap",
        "Rollouts: &lt;share&gt;",
        "Diversity",
        "Time by stage",
        f"6 {TIMES} not finite",
        "learning_rate",
    ):
        assert words in page


@pytest.mark.parametrize("iterations", [0, 1, 2])
def test_a_run_that_stopped_after_any_iteration_has_a_report(make_run: Callable[..., Path], iterations: int) -> None:
    page = write_report(make_run(iterations=iterations, ended=False, prompts=1)).read_text(encoding="utf-8")
    assert f"stopped or still running: {iterations} of 3 iterations done" in page
    assert page.count("data:audio/flac") == iterations + 1
    assert ("not aligned yet" in page) == (iterations == 0)


def test_a_run_that_has_only_started_has_a_report(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "metrics.jsonl").write("run", config={"init_policy": "checkpoints/full", "iterations": 5})
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "no measurements yet" in page and "on checkpoints/full" in page
    assert "This is the miniature" not in page


def test_figures_that_were_not_measured_are_left_out(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    missing = {"mean": float("nan"), "se": float("nan"), "delta": None, "delta_se": None}
    heldout = {"reward": {"mean": 0.3, "se": 0.1, "delta": None, "delta_se": None}, "exact": missing}
    log.write("iteration", iteration=0, heldout=heldout)
    worse = {"mean": 0.2, "se": 0.1, "delta": -0.1, "delta_se": 0.01}
    log.write("iteration", iteration=1, heldout={**heldout, "reward": worse})
    log.write("step", iteration=1, step=0, winner_loss=None, loser_loss=0.5)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "down by 10.0 standard errors" in page
    assert 'class="headline' in page and page.count('class="headline ') == 1


def test_everything_a_run_says_is_text_and_never_markup(make_run: Callable[..., Path]) -> None:
    run = make_run(iterations=1)
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    MetricsLog(run / "metrics.jsonl").write("run", command=[evil], config={"init_policy": evil, evil: {evil: evil}})
    flac = encode_flac(np.zeros((1, 100), np.float32), 16000)
    SampleFolder(run / "samples").write(1, evil, evil + "\ud83e", 1.0, flac, {})
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count("<script>") == page.count("</script>") == 1
    assert "<img src=x" not in page and '"><' not in page.replace('"><span class="side"', "").split("<body>")[0]


def test_the_last_whole_report_stays_if_the_next_one_fails(make_run: Callable[..., Path]) -> None:
    run = make_run(iterations=0)
    first = write_report(run).read_bytes()
    with (run / "metrics.jsonl").open("a") as file:
        file.write("broken\n")
    with pytest.raises(DataError, match="line 4"):
        write_report(run)
    assert (run / "report.html").read_bytes() == first


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=f"{directory} is no run directory"):
            main(["--run-dir", str(directory)])
        assert not (directory / "report.html").exists()


def test_the_command_says_where_the_report_is(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(iterations=0, prompts=1)
    assert main(["--run-dir", str(run)]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {run / 'report.html'} (")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_shows_it_asks_no_network_and_runs_no_prompt(make_run: Callable[..., Path], tmp_path: Path) -> None:
    page, requests = _browse(write_report(make_run()), tmp_path)
    assert requests == []
    assert "<title>CRPO report · run</title>" in page
    assert page.count("<svg") == 16 and page.count('class="play"') == 24
    assert ', 2.0 seconds"' in page, "no sound was decoded"
    assert page.count("cannot play") == 1, "only the script itself says so"


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_browser_test_would_see_a_request(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="http://example.invalid/pixel.png">')
    assert _browse(page, tmp_path)[1] == ["http://example.invalid/pixel.png"]


def _browse(page: Path, tmp_path: Path) -> tuple[str, list[str]]:
    """The page's document after its script ran, and what it (not the browser for itself) asked the network for."""
    log = tmp_path / "net.json"
    switches = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    switches += "disable-component-update disable-sync virtual-time-budget=2000 dump-dom"
    command = [str(CHROMIUM), *(f"--{switch}" for switch in switches.split()), f"--user-data-dir={tmp_path / 'user'}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--log-net-log={log}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    events = json.loads(log.read_text())["events"]
    asked = [event["params"] for event in events if "initiator" in event.get("params", {})]
    return done.stdout, sorted({row["url"] for row in asked if row["initiator"] != "not an origin"})

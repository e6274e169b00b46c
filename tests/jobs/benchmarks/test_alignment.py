"""Objectives and the best of N on a run of a tiny policy: real rollouts, real training, real samples."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from actors.options.command_line import load_options
from actors.storage.json_lines import read_json_lines
from jobs.bench import main
from jobs.benchmarks.alignment import best_of, objectives
from jobs.crpo import main as crpo
from jobs.options.bench import OBJECTIVES_COMMAND, ObjectivesOptions
from tangoflux.errors import ConfigError, DataError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

LOUDNESS = "tests.integration.rewards:Loudness"
FEW = ["--heldout-num-prompts", "4", "--heldout-split", "dev"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_policy_dir: Path, ray_session: None) -> Path:
    """A run of one iteration."""
    run = tmp_path_factory.mktemp("runs") / "seed-0"
    models = ["--init-policy", str(tiny_policy_dir), "--reward", LOUDNESS, "--judge", LOUDNESS, "--detector", LOUDNESS]
    counts = ["--iterations", "1", "--prompts-per-iteration", "6", "--num-samples", "4", "--num-steps", "2"]
    small = ["--heldout-num-prompts", "2", "--num-audio-samples", "1", "--epochs", "2", "--batch-size", "4"]
    assert crpo(["--run-dir", str(run), *models, *counts, *small, "--warmup-steps", "1", "--group-share", "1"]) == 0
    return run


def test_objectives_are_trained_on_a_runs_rollouts_and_the_same_command_goes_on(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "trials.jsonl"
    command = ["objectives", str(finished), "--output", str(output), *FEW, "--objectives"]
    assert main([*command, "crpo"]) == 0
    assert main([*command, "crpo", "awm"]) == 0
    rows = read_json_lines(output)
    # awm trains on all four samples: in two epochs, and in one, in which they are as many as the pairs' in two.
    assert {(row["objective"], row["epochs"]) for row in rows} == {("base", 0), ("crpo", 2), ("awm", 1), ("awm", 2)}
    assert len(rows) == 4, "nothing is trained twice"
    assert all(row["seconds"] > 0 for row in rows if row["epochs"])
    base, trained = ([row["figures"] for row in rows if bool(row["epochs"]) == which] for which in (False, True))
    assert all(figures["reward"] != base[0]["reward"] for figures in trained), "training changes the samples"
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in shown[-4:]] == ["base", "crpo", "awm", "awm"]


def test_objectives_may_have_the_papers_loss_and_another_rate(finished: Path) -> None:
    def trials(*options: str) -> list[objectives.Trial]:
        command = [str(finished), "--objectives", "awm", *options]
        parsed = load_options(ObjectivesOptions, OBJECTIVES_COMMAND, command)
        return [trial for run in parsed.run_dirs for trial in objectives.trials_of(run, parsed)]

    own, *_ = [trial.settings for trial in trials() if trial.settings]
    assert own.objective.guided_loss and own.threads == 1
    base, *trained = trials("--paper-loss", "--learning-rate", "5e-5")
    assert base.objective == "base"
    for trial in trained:
        assert trial.objective == "awm, the papers' loss, rate 5e-05" and trial.settings
        assert trial.settings.learning_rate == 5e-5 and not trial.settings.objective.guided_loss


def test_the_best_of_n_is_measured_before_and_after(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["best-of", str(finished), *FEW, "--heldout-num-samples", "4", "--sizes", "1", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()[-4:]
    labels = ["base, best of 1", "base, best of 4", "aligned, best of 1", "aligned, best of 4"]
    assert [line.split("|")[1].strip() for line in lines] == labels


def test_changes_of_objectives_have_errors_over_runs() -> None:
    def trial(run: str, objective: str, epochs: int, values: list[float | None]) -> dict[str, object]:
        figures = {"recall": values}
        return {"run": run, "objective": objective, "epochs": epochs, "seconds": 30.0, "figures": figures}

    rows = [trial("a", "base", 0, [0.5, 0.7]), trial("b", "base", 0, [0.5, None])]
    rows += [trial("a", "ipo", 6, [0.6, 0.8]), trial("b", "ipo", 6, [0.8, 0.9])]
    text = objectives.table(rows).splitlines()
    assert text[0] == "| objective | epochs | seconds | recall |"
    assert text[2:] == ["| base | – | – | 0.567 |", "| ipo | 6 | 30.0 s | +0.200 ± 0.100 |"]


def test_the_best_of_n_is_the_mean_over_runs_with_errors_over_prompts() -> None:
    prompts = ["a bell rings", "a dog barks", "a siren wails"]
    first = {"base, best of 1": {"judge": np.array([0.0, 0.2, 0.4])}, "aligned": {"judge": np.array([0.1, 0.3, 0.8])}}
    other = {"base, best of 1": first["base, best of 1"], "aligned": {"judge": np.array([0.2, 0.4, 0.6])}}
    assert best_of.table([first], prompts).splitlines()[2:] == [
        "| base, best of 1 | 0.200 |",
        "| aligned | +0.200 ± 0.100 |",
    ]
    assert best_of.table([first, other], prompts).splitlines()[3] == "| aligned | +0.200 ± 0.050 |"


def test_what_cannot_be_compared_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--sizes 16 is more than --heldout-num-samples 4; raise it"):
        main(["best-of", str(finished), "--heldout-num-samples", "4"])
    other = tmp_path / "seed-1"
    shutil.copytree(finished, other)
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("seed: 1234", "seed: 9"))
    with pytest.raises(DataError, match="seed-1 has another --heldout-seed than"):
        main(["best-of", str(finished), str(other)])
    with pytest.raises(DataError, match="none holds no rollouts of a run"):
        main(["objectives", str(tmp_path / "none"), "--output", str(tmp_path / "a.jsonl")])
    with pytest.raises(DataError, match="that has finished an iteration"):
        main(["best-of", str(tmp_path / "none")])

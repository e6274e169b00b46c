"""Compares objectives: each trains the same policy on the same stored rollouts, and is measured on held-out prompts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import torch.distributed as dist

from actors.cluster.session import ray_session
from actors.learner.checkpoint import load_tensors
from actors.learner.mailbox import EventLog
from actors.learner.rank import Rank, load_data
from actors.learner.settings import AlignmentSettings, LearnerJob
from actors.storage.json_lines import JsonLines
from actors.storage.layout import POLICIES, ROLLOUTS, iteration_name
from actors.storage.policy_store import PolicyStore, version_name
from jobs.benchmarks.alignment.heldout import Heldout, heldout_of, measure
from jobs.options.bench import ObjectivesOptions
from jobs.options.crpo import RunConfig, load_config
from jobs.options.sections import Objective
from jobs.reporting.display import Display
from jobs.reporting.formatting import MISSING, format_seconds, format_with_error
from jobs.stages.output_dir import FLAG
from jobs.stages.pools import alignment_settings
from jobs.stages.run_dir import check_writable_file
from tangoflux.errors import DataError
from tangoflux.estimates import mean_and_error, row_means

ITERATION = 1
"""The iteration whose rollouts are trained on: all runs of a seed have the same."""


@dataclass(frozen=True)
class Trial:
    """One training, or with 0 epochs the base policy.

    Attributes:
        objective: its name, and what differs from the run's own options.
        second: whether another trial of the objective, with another budget, comes first.
    """

    run: str
    objective: str
    epochs: int
    settings: AlignmentSettings | None
    heldout: Heldout
    second: bool = False

    @property
    def key(self) -> tuple[str, str, int]:
        """What it is stored under."""
        return self.run, self.objective, self.epochs


def run(options: ObjectivesOptions) -> None:
    """Trains and measures what ``--output`` does not hold yet, and prints the table."""
    check_writable_file(options.output, FLAG)
    trials = [trial for directory in options.run_dirs for trial in trials_of(directory, options)]
    trials.sort(key=lambda trial: trial.second)
    log = JsonLines(options.output)
    done = _by_key(log.read())
    missing = [trial for trial in trials if trial.key not in done]
    with Display() as display, ray_session(), display.stage(0, "objectives", len(trials), "trainings") as stage:
        stage.skip(len(trials) - len(missing))
        pending = {_remotely.remote(trial): trial for trial in missing}
        while pending:
            [ready], _ = ray.wait(list(pending))
            trial = pending.pop(ready)
            log.append({"run": trial.run, "objective": trial.objective, "epochs": trial.epochs, **ray.get(ready)})
            stage.advance()
    done = _by_key(log.read())
    print(table([done[trial.key] for trial in trials]))


def _by_key(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, int], Mapping[str, Any]]:
    return {(row["run"], row["objective"], row["epochs"]): row for row in rows}


def trials_of(run: Path, options: ObjectivesOptions) -> list[Trial]:
    """The base policy, and each objective with the same sampling budget and with the same training budget.

    Raises:
        DataError: the directory holds no rollouts.
        ConfigError: an objective does not go with the run's options.
    """
    config = load_config(["--run-dir", str(run), "--resume"])
    if not (run / ROLLOUTS / iteration_name(ITERATION)).is_dir():
        raise DataError(f"{run} holds no rollouts of a run of jobs/crpo.py")
    heldout = heldout_of(config, options)
    trials = [Trial(str(run.resolve()), "base", 0, None, heldout)]
    changes, told = _changes(options)
    for objective in options.objectives:
        for number, epochs in enumerate(budgets(objective, config)):
            settings = alignment_settings(objective, config.learner.model_copy(update={**changes, "epochs": epochs}))
            trials.append(Trial(str(run.resolve()), objective + told, epochs, settings, heldout, number > 0))
    return trials


def _changes(options: ObjectivesOptions) -> tuple[dict[str, Any], str]:
    """What differs from a run's own options, and how a row says so."""
    changes: dict[str, Any] = {"threads": 1}  # a training has one CPU
    told = ""
    if options.paper_loss:
        changes |= {"guided_loss": False, "min_sigma": None}
        told += ", the papers' loss"
    if options.learning_rate:
        changes["learning_rate"] = options.learning_rate
        told += f", rate {options.learning_rate:g}"
    return changes, told


def budgets(objective: Objective, config: RunConfig) -> list[int]:
    """Epochs: those in which it trains on as many samples as there are in the run's epochs of pairs; then the run's."""
    samples = len(alignment_settings(objective, config.learner).objective.ranks(config.num_samples))
    same_training = max(1, round(config.learner.epochs * 2 / samples))
    return list(dict.fromkeys((same_training, config.learner.epochs)))


def train_and_measure(trial: Trial) -> dict[str, Any]:
    """Seconds of the optimiser steps, and by figure the mean of each held-out prompt's samples."""
    base, seconds = Path(trial.run) / POLICIES / version_name(0), 0.0
    with tempfile.TemporaryDirectory() as folder:
        policy = PolicyStore(Path(folder) / POLICIES).publish(0, base)
        if trial.settings:
            weights, seconds = _train(trial.settings, trial, Path(folder))
            policy = PolicyStore(policy.parent).publish(1, policy, weights, trial.settings.lora)
        figures = measure(policy, trial.heldout)
    return {"seconds": seconds, "figures": {name: row_means(values).tolist() for name, values in figures.items()}}


_remotely: Any = ray.remote(num_cpus=1, max_calls=1)(train_and_measure)


def _train(settings: AlignmentSettings, trial: Trial, folder: Path) -> tuple[dict[str, torch.Tensor], float]:
    """Trains as the only rank, in this process; returns the weights and the seconds of its steps."""
    run, config = Path(trial.run), trial.heldout.config
    data_dir, policy_dir = run / ROLLOUTS / iteration_name(ITERATION), run / POLICIES / version_name(0)
    weights = folder / "weights.safetensors"
    job = LearnerJob(policy_dir, weights, folder / "checkpoints", settings, config.seed, ITERATION, data_dir)
    log = EventLog()
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=0, world_size=1)
    try:
        Rank(job, load_data(job), 0, torch.device("cpu"), log).run()
    finally:
        dist.destroy_process_group()
    return load_tensors(weights), sum(event["seconds"] for event in log.events if event["event"] == "step")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown row for each objective and number of epochs: changes from the base, with the error over the runs."""
    base = {row["run"]: row for row in rows if not row["epochs"]}
    names = list(next(iter(base.values()))["figures"])
    lines = [f"| objective | epochs | seconds | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    means = [mean_and_error(np.concatenate([_values(row, name) for row in base.values()]))[0] for name in names]
    lines.append(_line("base", MISSING, MISSING, [format_with_error(mean, None) for mean in means]))
    for objective, epochs in dict.fromkeys((row["objective"], row["epochs"]) for row in rows if row["epochs"]):
        trials = [row for row in rows if (row["objective"], row["epochs"]) == (objective, epochs)]
        seconds = format_seconds(sum(row["seconds"] for row in trials) / len(trials))
        changes = [
            np.array([np.nanmean(_values(row, name) - _values(base[row["run"]], name)) for row in trials])
            for name in names
        ]
        cells = [format_with_error(*mean_and_error(change), sign=True) for change in changes]
        lines.append(_line(objective, epochs, seconds, cells))
    return "\n".join(lines)


def _line(*cells: Any) -> str:
    *first, rest = cells
    return f"| {' | '.join([*map(str, first), *rest])} |"


def _values(row: Mapping[str, Any], name: str) -> Any:
    return np.array(row["figures"][name], dtype=np.float64)

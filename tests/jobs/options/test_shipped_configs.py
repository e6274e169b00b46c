"""Every option that a shipped YAML file can set has an effect: the job's code reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import jobs.crpo
import jobs.stages.preparation.run
import jobs.stages.pretrain
import jobs.stages.rollout
import jobs.stages.score
import jobs.stages.train
from actors.options.command_line import load_options
from actors.options.schema import Options, option_fields, sections
from jobs.options import crpo, pretrain
from jobs.options.crpo import RunConfig
from jobs.options.prepare import PrepareJob
from jobs.options.pretrain import PretrainJob
from jobs.options.rollout import RolloutJob
from jobs.options.score import ScoreJob
from jobs.options.sections import CONFIGS
from jobs.options.train import TrainJob
from tangoflux.errors import ConfigError
from tests.jobs.options.reads import option_reads

JOBS: list[tuple[type[Options], Any]] = [
    (RunConfig, jobs.crpo.main),
    (PretrainJob, jobs.stages.pretrain.run),
    (PrepareJob, jobs.stages.preparation.run.run),
    (TrainJob, jobs.stages.train.run),
    (RolloutJob, jobs.stages.rollout.run),
    (ScoreJob, jobs.stages.score.run),
]


def load(file: Path) -> Options:
    """A shipped config with the options that it leaves to the user."""
    if file.stem in crpo.COMMAND.configs:
        return load_options(RunConfig, crpo.COMMAND, ["--config", file.stem])
    return load_options(PretrainJob, pretrain.COMMAND, ["--config", file.stem, "--clips", "a", "--output", "b"])


def unread(job: type[Options], start: Any) -> list[str]:
    """Keys of the job's options that no code reached from ``start`` reads."""
    reads = option_reads(start)
    missing: list[str] = []
    for option in option_fields(job):
        owner = sections(job).get(option.section, job)
        # A protocol stands for the sections that have its attributes.
        readers = [kind for kind, name in reads if name == option.name]
        if not any(getattr(kind, "_is_protocol", False) or issubclass(owner, kind) for kind in readers):
            missing.append(option.key)
    return missing


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_config_is_one_of_a_jobs_options(file: Path) -> None:
    assert isinstance(load(file), RunConfig | PretrainJob)


@pytest.mark.parametrize(("job", "start"), JOBS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_option_of_a_job_is_read(job: type[Options], start: Any) -> None:
    assert unread(job, start) == []


def test_pretraining_has_no_duration_to_sample(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("sampling: {duration_s: 10.0}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine.yaml: unknown key sampling.duration_s"):
        load_options(PretrainJob, pretrain.COMMAND, ["--config", str(file), "--clips", "a", "--output", "b"])

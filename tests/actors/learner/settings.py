"""Learner settings for tests: the options' defaults with one thread, and what a test changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from actors.learner.objectives import OPTIONS, make_objective
from actors.learner.settings import AlignmentSettings, PretrainingSettings
from jobs.options.learner import LearnerOptions
from jobs.options.pretrain import PretrainJob
from jobs.stages.pretrain import settings_of


def alignment_settings(**changes: Any) -> AlignmentSettings:
    values: dict[str, Any] = {**LearnerOptions().model_dump(), "objective": "crpo", "threads": 1, **changes}
    given = {name: values.pop(name) for name in OPTIONS}
    values["objective"] = make_objective(values["objective"], given)
    return AlignmentSettings(**values)


def pretraining_settings(clips_dir: Path, output: Path, **changes: Any) -> PretrainingSettings:
    settings = settings_of(PretrainJob(clips=clips_dir, output=output), prompts=())
    return dataclasses.replace(settings, **{"threads": 1, **changes})

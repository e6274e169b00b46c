"""Options of the commands about existing runs: report, compare and scale."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from actors.options.command_line import Command
from actors.options.pool_size import ALLOWED, PoolSize
from actors.options.schema import REQUIRED, Options, option
from jobs.options.sections import RunDir

ExistingRunDir = Annotated[RunDir, option(REQUIRED, "directory or URI of a run of jobs/crpo.py")]


class ReportOptions(Options):
    """Options of `python jobs/report.py`."""

    run_dir: ExistingRunDir


REPORT = Command(
    "python jobs/report.py",
    """\
Writes report.html of a CRPO run: one file that opens from disk, without a network. It shows the options, the curves of
reward, judge, exact rate and the learner, and the same prompts before and after to hear and to see. Works for a run
that stopped after any iteration, or is still going.""",
    """\
examples:
  python jobs/report.py --run-dir runs/a
""",
)


class CompareOptions(Options):
    """Options of `python jobs/compare.py`."""

    run_dirs: tuple[RunDir, ...] = option(
        REQUIRED, "directories or URIs of runs of jobs/crpo.py", flag="run", positional=True
    )


COMPARE = Command(
    "python jobs/compare.py",
    """\
Compares finished CRPO runs, for example of several seeds, and prints Markdown. The first table has a row for each
held-out figure: the base policy's mean, the paired change of the run's result with its standard error over runs, its
error over held-out prompts, and how many runs a change of this size and spread needs to be clear. The second has each
run's own changes, with standard errors over its prompts. Errors over prompts are clustered by pair of sounds. One run
is one random draw: its own error says nothing of another run.""",
    """\
examples:
  python jobs/compare.py runs/seed-0 runs/seed-1 runs/seed-2
""",
)

Resize = Annotated[
    Annotated[PoolSize, BeforeValidator(PoolSize.parse)] | None,
    option(
        REQUIRED,
        "new number of workers, or a range such as 1:16",
        unit="processes",
        allowed=ALLOWED,
        default_text="unchanged",
    ),
]


class ScaleOptions(Options):
    """Options of `python jobs/scale.py`."""

    run_dir: ExistingRunDir
    rollout_workers: Resize = None
    reward_workers: Resize = None


SCALE = Command(
    "python jobs/scale.py",
    """\
Shows the pools of a live run, or resizes them while it runs, from any machine of its cluster. Workers that are removed
finish their chunks first; workers that are added start on the current policy. The data do not change. A range such as
2:16 grows with the backlog and shrinks when workers are idle.""",
    """\
examples:
  python jobs/scale.py --run-dir runs/a                                   the state of the pools
  python jobs/scale.py --run-dir runs/a --rollout-workers 8
  python jobs/scale.py --run-dir runs/a --rollout-workers 2:16 --reward-workers 1:2
""",
)

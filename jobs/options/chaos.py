"""Options of `python jobs/chaos.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from actors.options.command_line import Command
from actors.options.schema import Options, option
from jobs.options.sections import LocalPath

DESCRIPTION = """\
Shows that a run survives the death of any of its processes, and that its data and policies stay the same. All other
options are those of jobs/crpo.py, for two runs: first an undisturbed one, then one on a cluster of three nodes on this
machine, of which the head is spared. After each kill the next waits for progress: a chunk, an optimiser step, a policy
or an evaluation; the time until then counts as lost. A killed driver is restarted with --resume, and a killed node is
replaced. No chunk is hit more than twice."""

EXAMPLES = """\
examples:
  python jobs/chaos.py                                      20 kills in 3 iterations of the miniature; takes minutes
  python jobs/chaos.py --kills 30 --kill-seed 7 --output runs/chaos
  python jobs/chaos.py --kinds driver learner --kills 6 --iterations 2
"""

COMMAND = Command("python jobs/chaos.py", DESCRIPTION, EXAMPLES)

Kind = Literal["rollout", "reward", "writer", "controller", "learner", "node", "driver"]

KINDS: tuple[Kind, ...] = ("rollout", "reward", "writer", "controller", "learner", "node", "driver")


class ChaosOptions(Options):
    """All options of the command."""

    kills: int = option(20, "number of kills", unit="kills", ge=1)
    kinds: tuple[Kind, ...] = option(KINDS, "what to kill", allowed=f"some of {', '.join(KINDS)}")
    kill_seed: int = option(0, "seed of the order of the kills; --seed is the runs'", ge=0)
    output: LocalPath = option(Path("runs/chaos"), "new directory for both runs")

"""Options of `python jobs/build_miniature.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from actors.options.command_line import Command
from actors.options.schema import Options, option
from jobs.options.sections import LocalPath

DESCRIPTION = """\
Rebuilds every model of the miniature from nothing. Trains, on the procedural sound world, the event detector, the
grounder, the reward CLAP, the judge CLAP, the compositional CLAP, the autoencoder, the base policy on its latents, and
its decoder once more, each in its own process with one thread, and prints a quality table. Takes hours. Run the same
command again to resume."""

EXAMPLES = """\
examples:
  python jobs/build_miniature.py
  python jobs/build_miniature.py --processes 4 --install            replaces the weights in the package
  python jobs/build_miniature.py --stage detector                   one model only
"""

COMMAND = Command("python jobs/build_miniature.py", DESCRIPTION, EXAMPLES)

Stage = Literal["vae", "policy", "detector", "grounder", "clap", "judge", "compositional", "decoder"]


class BuildOptions(Options):
    """All options of the command."""

    output: LocalPath = option(Path("build/miniature"), "directory of the build")
    processes: int = option(2, "trainings that run at the same time", unit="processes", ge=1)
    policy_steps: int = option(8000, "pretraining steps of the policy", unit="steps", ge=1)
    heldout_num_prompts: int = option(384, "held-out prompts of the quality table", unit="prompts", ge=2)
    install: bool = option(False, "replace the package's weights by those of the build")
    stage: Stage | None = option(None, "train this model only, in this process", default_text="all")

"""Options of `python jobs/check_published.py`."""

from __future__ import annotations

from typing import Literal

from actors.options.command_line import Command
from actors.options.schema import REQUIRED, Options, option
from jobs.options.sections import LocalPath

DESCRIPTION = """\
Compares this implementation with the published code, both with the same random weights, noise and prompts. The
published code receives the weights through a directory that save_pretrained wrote. Latents are compared one prompt at a
time, as the published code is meant to be used, and the losses on one caption repeated, because in training it attends
to the padding of captions. Exits with status 1 if a relative difference is above 1e-4."""

EXAMPLES = """\
examples:
  python jobs/check_published.py path/to/TangoFlux
  python jobs/check_published.py path/to/TangoFlux --size full      12 GB of memory and some minutes on a CPU
"""

COMMAND = Command("python jobs/check_published.py", DESCRIPTION, EXAMPLES)


class CheckOptions(Options):
    """All options of the command."""

    published: LocalPath = option(REQUIRED, "clone of github.com/declare-lab/TangoFlux", positional=True)
    size: Literal["small", "full"] = option("small", "full: the paper's size, with FLAN-T5-large's shape, two steps")

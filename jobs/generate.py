"""Generates audio files from text.

tangoflux generate "a dog barks" dog.flac            or python jobs/generate.py "a dog barks" dog.flac
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from actors.options.command_line import load_options
from jobs.options.generate import COMMAND, GenerateOptions
from tangoflux.cli import run_main
from tangoflux.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Checks the options, then writes the files, prompt by prompt."""
    options = load_options(GenerateOptions, COMMAND, argv)
    # torch takes seconds to import; --help and a mistyped option should not wait for it.
    from jobs.stages.generate import run

    run(options)
    return 0


def run_tangoflux(argv: Sequence[str] | None) -> int:
    """The program ``tangoflux``; generate is its only command."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] in (["--help"], ["-h"]):
        return main(["--help"])
    if arguments[:1] != ["generate"]:
        raise ConfigError(f"unknown command {' '.join(arguments[:1])!r}; did you mean tangoflux generate?")
    return main(arguments[1:])


def console_script() -> NoReturn:
    """Starts ``tangoflux``."""
    run_main(run_tangoflux)


if __name__ == "__main__":
    run_main(main)

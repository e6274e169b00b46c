"""Compares this implementation with the published code, for the same random weights, noise and prompts.

python jobs/check_published.py path/to/TangoFlux
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.options.command_line import load_options
from jobs.options.check_published import COMMAND, CheckOptions
from tangoflux.cli import EXIT_FAILED, run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line per comparison."""
    options = load_options(CheckOptions, COMMAND, argv)
    # torch takes seconds to import; --help and a mistyped option should not wait for it.
    from jobs.benchmarks.published_equivalence import run

    return 0 if run(options) else EXIT_FAILED


if __name__ == "__main__":
    run_main(main)

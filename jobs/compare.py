"""Compares finished CRPO runs, for example of several seeds: a Markdown table of what each gained, and of all together.

python jobs/compare.py runs/seed-0 runs/seed-1 runs/seed-2
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.options.command_line import load_options
from jobs.options.runs import COMPARE, CompareOptions
from tangoflux.cli import run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    options = load_options(CompareOptions, COMPARE, argv)
    # Arrow takes a second to import; --help and a mistyped option should not wait for it.
    from jobs.reporting.comparison import comparison

    print(comparison(options.run_dirs))
    return 0


if __name__ == "__main__":
    run_main(main)

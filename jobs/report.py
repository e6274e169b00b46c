"""Writes ``report.html`` of a CRPO run: one file that opens from disk, without a network.

python jobs/report.py --run-dir runs/a
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actors.options.command_line import load_options
from jobs.options.runs import REPORT, ReportOptions
from tangoflux.cli import run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report and prints its path.

    Raises:
        DataError: ``--run-dir`` is not a run's directory.
    """
    run_dir = load_options(ReportOptions, REPORT, argv).run_dir
    # Arrow and the charts take a second to import; --help and a mistyped option should not wait for them.
    from jobs.reporting.html.crpo_report import write_report
    from jobs.stages.run_storage import local_small_files

    with local_small_files(run_dir) as directory:
        path = write_report(directory)
        size = path.stat().st_size
        if not isinstance(run_dir, Path):
            (run_dir / path.name).put(path)
    print(f"wrote {run_dir / path.name} ({size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    run_main(main)

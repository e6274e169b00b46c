"""Write ``report.html`` of a CRPO run: one file that opens from disk, without a network.

    python jobs/report.py --run-dir runs/2025-01-01-120000

It shows what was run, how reward, judge and exact rate changed, how the learner fared, and lets you hear and see the
same prompts before and after. A run that stopped after any iteration, or is still going, has a report too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from actors.storage.object_store import parse_path
from jobs.reporting.html.crpo_report import write_report
from jobs.stages.run_storage import small_files
from tangoflux.cli import run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of ``--run-dir`` and say where it is.

    Raises:
        DataError: that is no run's directory.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run-dir", type=parse_path, required=True, metavar="DIR", help="directory or URI of a run of jobs/crpo.py"
    )
    run_dir = parser.parse_args(argv).run_dir
    with small_files(run_dir) as directory:
        path = write_report(directory)
        size = path.stat().st_size
        if directory != run_dir:
            run_dir.put(path.name, path)
    print(f"wrote {run_dir / path.name} ({size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    run_main(main)

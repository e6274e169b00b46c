"""Training alone: aligns a policy to stored preference pairs, or to pairs that people have rated.

python jobs/train.py --preferences scored/a/preferences --output policies/a
python jobs/train.py --pairs rated.jsonl --output policies/b
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.options.command_line import load_options
from jobs.options.train import COMMAND, TrainJob
from tangoflux.cli import run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Checks what can be checked, encodes the pairs where they are a user's, trains, and writes the new policy."""
    config = load_options(TrainJob, COMMAND, argv)
    # torch and Ray take seconds to import; --help and a mistyped option should not wait for them.
    from jobs.stages.train import run

    run(config)
    return 0


if __name__ == "__main__":
    run_main(main)

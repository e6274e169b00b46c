"""Prepares audio for training: the files that a manifest names become latents of a policy's codec.

python jobs/prepare.py --manifest clips.jsonl --output prepared/a
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.options.command_line import load_options
from jobs.options.prepare import DESCRIPTION, EXAMPLES, PrepareJob
from tangoflux.cli import resumable, run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Checks what can be checked, then encodes the clips that no shard holds yet."""
    config = load_options(
        PrepareJob, argv, program="python jobs/prepare.py", description=DESCRIPTION, examples=EXAMPLES
    )
    # torch and Ray take seconds to import, which --help and a mistyped option need not wait for.
    from jobs.stages.prepare import run

    with resumable("the same command goes on where it stopped"):
        run(config)
    return 0


if __name__ == "__main__":
    run_main(main)

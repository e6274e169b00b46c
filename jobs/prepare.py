"""Prepares audio for training: the files that a manifest names become latents of a policy's codec.

python jobs/prepare.py --manifest clips.jsonl --output prepared/a
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.options.command_line import load_options
from jobs.options.prepare import COMMAND, PrepareJob
from tangoflux.cli import run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Checks what can be checked, then encodes the clips that no shard holds yet."""
    config = load_options(PrepareJob, COMMAND, argv)
    # torch and Ray take seconds to import; --help and a mistyped option should not wait for them.
    from jobs.stages.preparation.run import run

    run(config)
    return 0


if __name__ == "__main__":
    run_main(main)

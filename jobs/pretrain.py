"""Pretrains or fine-tunes a policy by flow matching on prepared clips.

python jobs/prepare.py --manifest clips.jsonl --output prepared/a
python jobs/pretrain.py --clips prepared/a --output pretrained/a
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.options.command_line import load_options
from jobs.options.pretrain import COMMAND, PretrainJob
from tangoflux.cli import run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Checks what can be checked, trains, and writes the new policy."""
    config = load_options(PretrainJob, COMMAND, argv)
    # torch and Ray take seconds to import; --help and a mistyped option should not wait for them.
    from jobs.stages.pretrain import run

    run(config)
    return 0


if __name__ == "__main__":
    run_main(main)

"""Pretrains or fine-tunes a policy by flow matching on prepared clips.

python jobs/prepare.py --manifest clips.jsonl --output prepared/a
python jobs/pretrain.py --clips prepared/a --output pretrained/a
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.options.command_line import load_options
from jobs.options.crpo import shipped_configs
from jobs.options.pretrain import DESCRIPTION, EXAMPLES, PretrainJob
from tangoflux.cli import resumable, run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Checks what can be checked, trains, and writes the new policy."""
    config = load_options(
        PretrainJob,
        argv,
        program="python jobs/pretrain.py",
        description=DESCRIPTION,
        examples=EXAMPLES,
        shipped=shipped_configs("pretrain-wavcaps", "finetune-audiocaps"),
    )
    # torch and Ray take seconds to import, which --help and a mistyped option need not wait for.
    from jobs.stages.pretrain import run

    with resumable("the same command goes on where it stopped"):
        run(config)
    return 0


if __name__ == "__main__":
    run_main(main)

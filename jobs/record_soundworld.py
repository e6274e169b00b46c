"""Records scenes of the sound world as files with a manifest, to try preparation and pretraining on.

python jobs/record_soundworld.py --output recordings --num-clips 400
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.options.command_line import load_options
from jobs.options.record_soundworld import COMMAND, RecordOptions
from jobs.stages.output_dir import FLAG, check_new
from jobs.stages.run_dir import check_writable
from tangoflux.cli import run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the recordings and prints the manifest's path."""
    options = load_options(RecordOptions, COMMAND, argv)
    check_writable(options.output, FLAG)
    check_new(options.output)
    from tangoflux.soundworld.recordings import write_recordings

    print(write_recordings(options.output, options.num_clips, options.seed))
    return 0


if __name__ == "__main__":
    run_main(main)

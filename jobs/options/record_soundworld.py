"""Options of `python jobs/record_soundworld.py`."""

from __future__ import annotations

from actors.options.command_line import Command
from actors.options.schema import REQUIRED, Options, option
from jobs.options.sections import LocalPath

DESCRIPTION = """\
Records random scenes of the procedural sound world as FLAC files with a manifest. They resemble recordings and captions
from the web: three quarters have a background that no caption names, and a quarter of the captions have a mistake."""

EXAMPLES = """\
examples:
  python jobs/record_soundworld.py --output recordings --num-clips 400
then:
  python jobs/prepare.py --manifest recordings/manifest.jsonl --output prepared/a
"""

COMMAND = Command("python jobs/record_soundworld.py", DESCRIPTION, EXAMPLES)


class RecordOptions(Options):
    """All options of the command."""

    output: LocalPath = option(REQUIRED, "directory to write the files and the manifest to")
    num_clips: int = option(400, "number of recordings", unit="clips", ge=1)
    seed: int = option(0, "seed of the scenes", ge=0, lt=2**63)

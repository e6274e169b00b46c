"""Train one of the small models: `python -m tangoflux.miniature_training detector --output DIR --cache DIR`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tangoflux.miniature_training import train_clap, train_detector


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=["detector", "clap-reward", "clap-judge"])
    parser.add_argument("--output", type=Path, required=True, help="directory of the finished model")
    parser.add_argument("--cache", type=Path, required=True, help="directory of rendered scenes and the resume state")
    parser.add_argument("--steps", type=int, help="optimiser steps, instead of the model's own number")
    arguments = parser.parse_args()
    begun = time.monotonic()

    def log(line: str) -> None:
        print(f"[{time.monotonic() - begun:6.0f} s] {line}", flush=True)

    if arguments.model == "detector":
        train_detector(arguments.output, arguments.cache, log, arguments.steps)
    elif arguments.model == "clap-reward":
        train_clap(arguments.output, arguments.cache, "reward", log, arguments.steps)
    else:
        train_clap(arguments.output, arguments.cache, "judge", log, arguments.steps)


if __name__ == "__main__":
    main()

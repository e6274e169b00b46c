"""Rebuilds every model of the miniature from nothing, on the procedural sound world: takes hours.

python jobs/build_miniature.py --install
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from actors.options.command_line import load_options
from jobs.options.build_miniature import COMMAND, BuildOptions, Stage
from tangoflux.cli import run_main
from tangoflux.errors import TangoFluxError

AFTER: dict[Stage, tuple[Stage, ...]] = {
    "vae": (),
    "policy": ("vae",),
    "detector": (),
    "grounder": (),
    "clap": (),
    "judge": (),
    "compositional": (),
    "decoder": ("vae",),
}
"""The stages, those on the longest path first, and the stages that each needs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Builds what is missing, prints the quality table, and installs the weights if ``--install`` is set."""
    options = load_options(BuildOptions, COMMAND, argv)
    # torch takes seconds to import; --help and a mistyped option should not wait for it.
    from jobs.stages.miniature import install, log_with_time, train_stage
    from tangoflux.miniature_training.quality import build_quality, table

    if options.stage is not None:
        train_stage(options.stage, options.output, options.policy_steps)
        return 0
    train_all(options)
    rows = build_quality(options.output, options.heldout_num_prompts, log_with_time())
    print(table(rows))
    if options.install:
        install(options.output, rows)
    return 0


def train_all(options: BuildOptions) -> None:
    """Starts each stage when the stages that it needs are done, at most ``--processes`` at the same time."""
    from jobs.stages.miniature import is_done, log_with_time
    from jobs.stages.run_dir import check_writable

    directory, log = options.output, log_with_time()
    check_writable(directory, "--output")
    directory.mkdir(parents=True, exist_ok=True)
    waiting: list[Stage] = [stage for stage in AFTER if not is_done(directory, stage)]
    running: dict[Stage, subprocess.Popen[bytes]] = {}
    while waiting or running:
        for stage in tuple(waiting):
            if len(running) < options.processes and all(is_done(directory, needed) for needed in AFTER[stage]):
                running[stage] = _start(stage, options)
                waiting.remove(stage)
        time.sleep(5)
        for stage, process in list(running.items()):
            log(f"{stage}: {_last_line(directory / f'{stage}.log')}")
            if process.poll() is None:
                continue
            del running[stage]
            if process.returncode or not is_done(directory, stage):
                raise TangoFluxError(f"stage {stage} exited with {process.returncode}; see {directory / stage}.log")


def _start(stage: Stage, options: BuildOptions) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--stage", stage, "--output", str(options.output)]
    command += ["--policy-steps", str(options.policy_steps)]
    with (options.output / f"{stage}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _last_line(file: Path) -> str:
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    return lines[-1] if lines else "starting"


if __name__ == "__main__":
    run_main(main)

"""Serves the latest policy over HTTP until Ctrl-C."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence

from actors.command_line import load_options
from serve.options import ServeOptions, check_reachable, key_hash
from tangoflux.cli import catch_sigterm, run_main

DESCRIPTION = "Serves the latest policy over HTTP, with a page to listen on, until Ctrl-C."

EXAMPLES = """\
examples:
  python serve/run.py                                   the miniature, on http://127.0.0.1:8000
  python serve/run.py --run-dir runs/a                  follows a run of jobs/crpo.py, and serves each new policy
  python serve/run.py --model declare-lab/TangoFlux --num-gpus 1 --precision auto --reward 630k-audioset-best
  curl -s 127.0.0.1:8000/v1/audio/generate -H 'Content-Type: application/json' \\
      -d '{"input": "a dog barks twice", "response_format": "flac"}' -o dog.flac
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Checks the options, starts Serve on this machine or on the cluster of $RAY_ADDRESS, and waits."""
    options = load_options(
        ServeOptions, argv, program="python serve/run.py", description=DESCRIPTION, examples=EXAMPLES
    )
    check_reachable(options.host, key_hash(options), options.open_to_all)
    # Ray takes seconds to import, which --help and a mistyped option need not wait for.
    import ray
    from ray import serve

    from serve.app import application

    deployment = application(options)
    ray.init(log_to_driver=False, include_dashboard="RAY_ADDRESS" in os.environ, logging_level=logging.ERROR)
    try:
        serve.start(http_options={"host": options.host, "port": options.port}, logging_config={"log_level": "WARNING"})
        serve.run(deployment, name="tangoflux")
        catch_sigterm()
        print(f"serving {options.run_dir or options.model} on http://{options.host}:{options.port}", flush=True)
        threading.Event().wait()
    finally:
        serve.shutdown()
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))

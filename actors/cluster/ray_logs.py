"""The environment of a Ray that is started on this machine: its chatter and the libraries' stay in Ray's logs."""

from __future__ import annotations

import os

QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}

NO_METRICS = {
    # Without the dashboard's agent every worker would complain that it cannot export its metrics.
    "RAY_enable_metrics_collection": "0",
}


def silence_ray_logs(metrics: bool = False) -> None:
    """Sets it, but for what is set already; to be called before Ray is started.

    Args:
        metrics: whether Ray is to collect metrics.
    """
    for name, value in (QUIET | ({} if metrics else NO_METRICS)).items():
        os.environ.setdefault(name, value)

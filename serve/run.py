"""Serves the latest policy over HTTP until Ctrl-C."""

from __future__ import annotations

import io
import logging
import math
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout, suppress
from typing import Any

from actors.cluster.address import cluster_address
from actors.options.command_line import load_options
from serve.options import COMMAND, ServeOptions, check_reachable, key_hash
from serve.ports import reserved_port
from tangoflux.cli import catch_sigterm, run_main
from tangoflux.errors import CheckpointError, ResourceError


def main(argv: Sequence[str] | None = None) -> int:
    """Checks the options, starts Serve on this machine or on the cluster of $RAY_ADDRESS, and waits."""
    options = load_options(ServeOptions, COMMAND, argv)
    check_reachable(options.host, key_hash(options), options.open_to_all)
    with _reserved_ports(options):
        return _serve(options)


def _reserved_ports(options: ServeOptions) -> AbstractContextManager[None]:
    """Keeps the port on this machine; on the cluster of $RAY_ADDRESS it may be another machine's.

    Raises:
        ConfigError, ResourceError: a port cannot be used.
    """
    if cluster_address():
        return nullcontext()
    if options.metrics_port:
        with reserved_port("0.0.0.0", options.metrics_port, "--metrics-port"):
            pass  # only checked, since Ray could not listen on it
    return reserved_port(options.host, options.port, "--port")


def _serve(options: ServeOptions) -> int:
    # Ray takes seconds to import; --help and a mistyped option should not wait for it.
    from actors.cluster.session import silence_ray_logs

    silence_ray_logs(metrics=options.metrics_port is not None)
    import ray
    from ray import serve

    from serve.app import application

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    deployment = application(options)
    _start_ray(options)
    try:
        _start_proxy(options)
        health = serve.run(deployment, name="tangoflux").health.remote().result()
        catch_sigterm()
        _say(options, health)
        with suppress(KeyboardInterrupt):  # the usual end
            threading.Event().wait()
    finally:
        with redirect_stdout(io.StringIO()):  # Ray reports the calls that its shutdown cancels there
            serve.shutdown()
            ray.shutdown()
    print("stopped", flush=True)
    return 0


def _start_proxy(options: ServeOptions) -> None:
    """Starts Serve's HTTP proxy, on the cluster's head.

    Raises:
        ResourceError: it cannot listen.
    """
    from ray import serve
    from ray.exceptions import RayTaskError

    try:
        serve.start(http_options={"host": options.host, "port": options.port}, logging_config={"log_level": "WARNING"})
    except RayTaskError as error:
        reason = str(error.cause).rstrip(".")
        raise ResourceError(f"--port {options.port} of --host {options.host}: {reason}: pass another port") from None


def _say(options: ServeOptions, health: Mapping[str, Any]) -> None:
    """Prints what is served, and where.

    Raises:
        CheckpointError: ``--policy`` cannot be served.
    """
    refused = "; ".join(f"{name}: {reason}" for name, reason in health["refused"].items())
    if refused and options.run_dir is None:
        raise CheckpointError(f"--policy {options.policy} cannot be served: {refused}")
    served = health["version"] or f"no policy yet ({refused or health['problem'] or 'waiting for the run'})"
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(f"serving {options.run_dir or options.policy}, {served}, on http://{host}:{options.port}", flush=True)


def _start_ray(options: ServeOptions) -> None:
    """Joins the cluster of $RAY_ADDRESS, or starts Ray on this machine, with more replicas than cores if need be.

    Raises:
        ResourceError: the cluster cannot be joined, or this machine has fewer GPUs than a replica requests.
    """
    import torch

    from actors.cluster.local import start_ray
    from actors.cluster.session import join_cluster

    if address := cluster_address():
        return join_cluster(address)
    replica, gpus = options.replica, torch.cuda.device_count()
    if replica.num_gpus > gpus:
        raise ResourceError(f"--num-gpus {replica.num_gpus:g}: this machine has {gpus}")
    cpus = max(os.cpu_count() or 1, math.ceil(replica.num_cpus * replica.replicas.most))
    port: dict[str, Any] = {"_metrics_export_port": options.metrics_port} if options.metrics_port else {}
    start_ray(cpus, **port)


if __name__ == "__main__":
    run_main(main)

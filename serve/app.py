"""The deployment on Ray Serve: ``serve run serve.app:app run_dir=runs/a``."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.context import _get_global_client  # pyright: ignore[reportPrivateUsage]
from ray.serve.schema import LoggingConfig

from serve.api import build_api
from serve.logs import log_place, log_with_serve
from serve.options import ServeOptions, check_reachable, key_hash, options_of
from serve.service import Service, versions_of
from serve.telemetry import Telemetry
from tangoflux.rewards import check_reward

OTHER_REQUESTS = 64
"""Requests to a replica in addition to those that are sampled or wait: for health, the page, and refusals."""

NAME = "tangoflux"


@serve.deployment(name=NAME)
@serve.ingress()  # pyright: ignore[reportUntypedClassDecorator]
class Replica:
    """A process with the policies and an engine behind the API; it follows the run by polling."""

    def __init__(self, options: ServeOptions, key: str | None) -> None:
        log_with_serve()
        client = _get_global_client(raise_if_no_controller_running=False)
        if client:
            check_reachable(client.http_config.host or "127.0.0.1", key, options.open_to_all)
        self._options, self._key = options, key
        self.service = Service(options)
        self._stop, self._telemetry = threading.Event(), Telemetry()
        arguments = (options.poll_s, self._stop, self._update_metrics)
        threading.Thread(target=self.service.policies.follow, args=arguments, name="follow", daemon=True).start()

    def health(self) -> dict[str, Any]:
        """The values of ``/health``, for the process that deploys."""
        return self.service.health()

    def check_health(self) -> None:
        """Called by Serve, which replaces the replica if this raises."""
        if not self.service.is_healthy:
            raise RuntimeError(f"the engine keeps failing; see {log_place()}")

    def _update_metrics(self) -> None:
        self._telemetry.update(self.health(), self.service.samples)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(lambda: self.service, self._options, self._key)

    def __del__(self) -> None:
        with suppress(AttributeError):  # if the constructor raised before it had set them
            self._stop.set()
            self.service.close()


def app(arguments: dict[str, Any]) -> Application:
    """The application for ``serve run`` and config files, from options by name; see ``serve/options.py``.

    Raises:
        TangoFluxError: an option is not allowed, or there is no such run, model or reward.
    """
    return application(options_of(arguments))


def application(options: ServeOptions) -> Application:
    """The application, after all checks that are possible before a replica starts.

    Raises:
        TangoFluxError: see ``app``.
    """
    key = key_hash(options)
    versions_of(options)
    check_reward(options.reward)
    replica, size = options.replica, options.replica.replicas
    scaling: dict[str, Any] = {"num_replicas": size.least}
    if size.least != size.most:
        sizes = {"min_replicas": size.least, "max_replicas": size.most}
        scaling = {"autoscaling_config": {**sizes, "target_ongoing_requests": replica.target_requests}}
    deployment = Replica.options(
        max_ongoing_requests=options.limits.max_waiting + OTHER_REQUESTS,
        max_queued_requests=options.limits.max_waiting,
        backpressure_config=BackpressureConfig(retry_after_s=options.limits.retry_after_s),
        ray_actor_options={
            "num_cpus": replica.num_cpus,
            "num_gpus": replica.num_gpus,
            "resources": replica.resources,
            "label_selector": replica.label_selector,
        },
        logging_config=LoggingConfig(enable_access_log=False),
        **scaling,
    )
    return deployment.bind(options, key)

"""The deployment on Ray Serve: ``serve run serve.app:app run_dir=runs/a``."""

from __future__ import annotations

import logging
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
from serve.options import ServeOptions, check_reachable, key_hash, options_of
from serve.service import Service, versions_of
from serve.telemetry import Telemetry
from tangoflux.rewards import check_reward

BESIDE_ROWS = 64
"""Requests to a replica beside those whose samples it makes or keeps waiting: for health, the page, and refusals."""

NAME = "tangoflux"


@serve.deployment(name=NAME)
@serve.ingress()  # pyright: ignore[reportUntypedClassDecorator]
class Replica:
    """A process with the policies and an engine, behind the API. It follows the run by itself."""

    def __init__(self, options: ServeOptions, key: str | None) -> None:
        logging.getLogger("serve").setLevel(logging.INFO)
        client = _get_global_client(raise_if_no_controller_running=False)
        if client:
            check_reachable(client.http_config.host or "127.0.0.1", key, options.open_to_all)
        self._options, self._key = options, key
        self.service = Service(options)
        self._over, self._telemetry = threading.Event(), Telemetry()
        looks = (options.poll_s, self._over, self._tell)
        threading.Thread(target=self.service.policies.follow, args=looks, name="follow", daemon=True).start()

    def health(self) -> dict[str, Any]:
        """What ``/health`` says, for the process that deploys."""
        return self.service.health()

    def check_health(self) -> None:
        """For Serve, which replaces the replica if this raises."""
        if not self.service.is_fit:
            raise RuntimeError("the engine does not step any more; see the replica's log")

    def _tell(self) -> None:
        self._telemetry.show(self.health(), self.service.samples)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(lambda: self.service, self._options, self._key)

    def __del__(self) -> None:
        with suppress(AttributeError):  # of what was refused before it had them
            self._over.set()
            self.service.close()


def app(arguments: dict[str, Any]) -> Application:
    """Serve's application from options by name, see ``serve/options.py``.

    Raises:
        TangoFluxError: an option is not allowed, or there is no such run, model or reward.
    """
    return application(options_of(arguments))


def application(options: ServeOptions) -> Application:
    """The same from options; all that can be checked is checked here, before a replica starts.

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
        max_ongoing_requests=options.limits.max_waiting + BESIDE_ROWS,
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

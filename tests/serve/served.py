"""What tests of a real Serve share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
from ray import serve

from serve.app import application
from serve.options import options_of

URL = "/v1/audio/generate"
QUICK: dict[str, Any] = {"input": "a dog barks", "audio_length": 0.5, "num_inference_steps": 3, "seed": 1}


def deploy(address: str, **arguments: Any) -> httpx.Client:
    """Puts an application in the place of what is served, and gives a client of it."""
    serve.run(application(options_of({"threads": 1, "poll_s": 0.2, **arguments})), name="tangoflux")
    return httpx.Client(base_url=address, timeout=60)


def replicas() -> list[psutil.Process]:
    """The processes of what is served, or was until a moment ago."""
    return [one for one in psutil.Process().children(recursive=True) if is_replica(one)]


def is_replica(process: psutil.Process) -> bool:
    """Whether it is a process of what is served."""
    try:
        return "".join(process.cmdline()).startswith("ray::ServeReplica:tangoflux")
    except psutil.NoSuchProcess:
        return False


def eventually(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """The condition's value, once it is true."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "in vain"
        time.sleep(0.1)
    return found

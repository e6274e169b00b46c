"""The API without Ray, in this process."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from serve.api import build_api
from serve.options import options_of
from serve.service import Service

URL = "/v1/audio/generate"
QUICK = {"input": "a dog barks", "audio_length": 0.5, "num_inference_steps": 3}


@contextmanager
def served(model: Path | str, key: str | None = None, **arguments: Any) -> Generator[TestClient]:
    options = options_of({"policy": str(model), **arguments})
    service = Service(options)
    try:
        yield TestClient(build_api(lambda: service, options, key), raise_server_exceptions=False)
    finally:
        service.close()


def error_of(answer: Any) -> dict[str, Any]:
    body = answer.json()
    assert body.keys() == {"error"} and body["error"].keys() == {"message", "type", "param", "code"}
    return body["error"]

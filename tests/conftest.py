"""Fixtures that several modules share."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Before torch is imported anywhere: two processes on two cores are fastest with one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.tiny import tiny_model

if TYPE_CHECKING:
    from actors.storage.object_store import ObjectStorePath
    from tests.object_store import Proxy


@pytest.fixture(scope="session")
def tiny_policy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved random tiny TangoFlux in the published layout."""
    directory = tmp_path_factory.mktemp("tiny") / "policy"
    tiny_model().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    """A real Ray on this machine with two CPUs, one for the whole module."""
    import ray

    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """A real S3 server on loopback with a bucket, and credentials for it in the environment."""
    from tests.object_store import CREDENTIALS, s3_server

    with pytest.MonkeyPatch.context() as patch, s3_server() as url:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield url


@pytest.fixture
def proxy(s3_url: str) -> Iterator[Proxy]:
    """A proxy for it that can make requests fail."""
    from tests.object_store import Proxy, running

    with running(Proxy(s3_url)) as proxy:
        yield proxy


@pytest.fixture
def bucket_dir(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> ObjectStorePath:
    """An empty directory on it; failed requests are retried soon."""
    from actors.storage import object_store
    from actors.storage.object_store import ObjectStorePath

    monkeypatch.setattr(object_store, "STALLED_S", 1)
    monkeypatch.setitem(object_store.RETRIES, "backoff", {"init_backoff": timedelta(seconds=0.05)})
    return ObjectStorePath(f"s3://bucket/run/{uuid.uuid4().hex}?endpoint_override={proxy.url}")

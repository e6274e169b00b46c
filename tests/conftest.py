"""Fixtures that several modules share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported anywhere: two processes on two cores are fastest with one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.tiny import tiny_model


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

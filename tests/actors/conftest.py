"""Fixtures of the learner's tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch.distributed as dist


@pytest.fixture(scope="session")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """This process as the only rank, without Ray; one for all modules, as DeepSpeed keeps the first that it sees."""
    store = tmp_path_factory.mktemp("process_group") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
        gc.freeze()  # each start of DeepSpeed collects garbage several times, and need not look at every module
        yield
        dist.destroy_process_group()

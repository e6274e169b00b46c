from __future__ import annotations

import pytest
import torch

from jobs.cluster import ray_session
from jobs.config import RolloutOptions
from tangoflux.errors import ResourceError


def test_gpus_that_this_machine_lacks_are_refused_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    lacking = torch.cuda.device_count() + 1
    message = f"asks for {lacking} GPUs and this machine has {lacking - 1}"
    with pytest.raises(ResourceError, match=message), ray_session(RolloutOptions(num_gpus=lacking)):
        pass

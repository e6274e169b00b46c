from __future__ import annotations

import pytest
import torch

from actors.cluster.session import ray_session
from jobs.options.sections import RolloutOptions
from tangoflux.errors import ResourceError


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("nonsense", "Invalid address format: nonsense"),
        ("http://127.0.0.1:8265", "Invalid Ray address: 'http://127.0.0.1:8265'"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_one_line(monkeypatch: pytest.MonkeyPatch, address: str, said: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ResourceError, match=rf"^the cluster at RAY_ADDRESS={address} cannot be joined \(.*{said}"):
        ray_session(RolloutOptions()).__enter__()


def test_gpus_that_this_machine_lacks_are_refused_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    lacking = torch.cuda.device_count() + 1
    message = f"asks for {lacking} GPUs and this machine has {lacking - 1}"
    with pytest.raises(ResourceError, match=message), ray_session(RolloutOptions(num_gpus=lacking)):
        pass

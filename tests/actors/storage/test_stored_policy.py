from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors.torch import load_file

from actors.storage.object_store import ObjectStorePath
from actors.storage.policy_store import PolicyStore
from actors.storage.stored_policy import drop_version, local_policy, put_version, stored_versions
from tangoflux.errors import CheckpointError, ResourceError
from tangoflux.pipeline import TangoFlux
from tests.object_store import Fault, Proxy


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tangoflux" / "policies"


def put_all(store: PolicyStore, bucket_dir: ObjectStorePath) -> None:
    for version in store.versions():
        put_version(store.path(version), bucket_dir / f"v{version:04d}")


def test_a_version_is_copied_once_to_a_machine_and_loads(
    bucket_dir: ObjectStorePath, proxy: Proxy, tiny_policy_dir: Path, tmp_path: Path
) -> None:
    store = PolicyStore(tmp_path / "policies")
    store.publish(0, tiny_policy_dir)
    put_all(store, bucket_dir)
    assert stored_versions(bucket_dir) == ["v0000"]
    directory = local_policy(bucket_dir / "v0000")
    before = (directory / "tangoflux.safetensors").stat().st_ino
    TangoFlux.from_pretrained(directory)
    assert local_policy(ObjectStorePath(str(bucket_dir / "v0000"))) == directory
    assert (directory / "tangoflux.safetensors").stat().st_ino == before
    assert local_policy(tiny_policy_dir) == tiny_policy_dir


def test_of_many_versions_the_last_two_and_those_in_use_stay_on_a_machine(
    bucket_dir: ObjectStorePath, tiny_policy_dir: Path, tmp_path: Path
) -> None:
    store = PolicyStore(tmp_path / "policies")
    for version in range(4):
        store.publish(version, tiny_policy_dir)
    put_all(store, bucket_dir)
    copies = [local_policy(bucket_dir / f"v{version:04d}") for version in (0, 2, 3)]
    for copy in copies:
        os.utime(copy, (0, 0))
    assert local_policy(bucket_dir / "v0001").is_dir(), "although it is neither among the last two nor the base"
    assert sorted(path.name for path in copies[-1].parent.iterdir()) == ["v0001", "v0002", "v0003"]


def test_another_run_at_the_same_place_is_not_taken_for_the_first(
    bucket_dir: ObjectStorePath, tiny_policy_dir: Path, tmp_path: Path
) -> None:
    store = PolicyStore(tmp_path / "policies")
    store.publish(0, tiny_policy_dir)
    put_all(store, bucket_dir)
    first = local_policy(bucket_dir / "v0000")
    weights = {key: value + 1 for key, value in load_file(tiny_policy_dir / "tangoflux.safetensors").items()}
    other = PolicyStore(tmp_path / "others")
    other.publish(0, tiny_policy_dir, weights)
    drop_version(bucket_dir / "v0000")
    assert bucket_dir.sizes() == {}
    put_all(other, bucket_dir)
    second = local_policy(bucket_dir / "v0000")
    assert first != second
    assert (second / "tangoflux.safetensors").read_bytes() != (first / "tangoflux.safetensors").read_bytes()


def test_a_version_that_was_not_put_whole_is_not_there(
    bucket_dir: ObjectStorePath, proxy: Proxy, tiny_policy_dir: Path, tmp_path: Path
) -> None:
    store = PolicyStore(tmp_path / "policies")
    store.publish(0, tiny_policy_dir)
    put_all(store, bucket_dir)
    store.publish(1, tiny_policy_dir)
    faults: list[Fault | None] = [None, None, None, *["error" for _ in range(50)]]
    proxy.spoil(*faults, methods=("PUT", "POST"))
    with pytest.raises(ResourceError, match=r"v0001/\S+ cannot be written"):
        put_all(store, bucket_dir)
    proxy.spoil()
    assert stored_versions(bucket_dir) == ["v0000"]
    with pytest.raises(CheckpointError, match="is no version of a policy"):
        local_policy(bucket_dir / "v0001")
    put_all(store, bucket_dir)
    assert stored_versions(bucket_dir) == ["v0000", "v0001"]

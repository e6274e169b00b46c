"""``PolicyStore`` in an object store."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from actors.storage.object_store import ObjectStorePath
from actors.storage.policy_store import PolicyStore, local_policy
from tangoflux.errors import CheckpointError, ResourceError
from tangoflux.pipeline import TangoFlux
from tests.object_store import Fault, Proxy
from tests.tiny import LORA, tiny_lora


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tangoflux" / "policies"


@pytest.fixture
def store(bucket_dir: ObjectStorePath, tiny_policy_dir: Path) -> PolicyStore[ObjectStorePath]:
    store = PolicyStore(bucket_dir)
    assert store.publish(0, tiny_policy_dir) == bucket_dir / "v0000"
    return store


def on_another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))


def test_a_version_is_copied_once_to_a_machine_and_loads(
    store: PolicyStore[ObjectStorePath],
    proxy: Proxy,
    tiny_policy_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert store.versions() == [0]
    published = store.local(0)
    on_another_machine(monkeypatch, tmp_path)
    directory = local_policy(store.location / "v0000")
    assert directory != published
    before = (directory / "tangoflux.safetensors").stat().st_ino
    TangoFlux.from_pretrained(directory)
    proxy.requests = 0
    assert local_policy(ObjectStorePath(str(store.location / "v0000"))) == directory
    assert (directory / "tangoflux.safetensors").stat().st_ino == before
    assert proxy.requests == 1, "to learn which run is there"
    assert local_policy(tiny_policy_dir) == tiny_policy_dir


def test_the_machine_that_published_a_version_need_not_download_it(
    store: PolicyStore[ObjectStorePath], proxy: Proxy
) -> None:
    store.publish(1, store.path(0), {"fc.0.bias": torch.ones(16)})
    proxy.requests = 0
    assert torch.equal(store.state(1)["fc.0.bias"], torch.ones(16))
    assert proxy.requests == 1
    assert os.path.samefile(store.local(0) / "vae.safetensors", store.local(1) / "vae.safetensors")


def test_stored_versions_are_those_on_a_disk(
    store: PolicyStore[ObjectStorePath], tiny_policy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = PolicyStore(tmp_path / "policies")
    disk.publish(0, tiny_policy_dir)
    for each in (disk, store):
        each.publish(1, each.path(0), {"fc.0.bias": torch.ones(16)})
        each.publish(2, each.path(1), tiny_lora(tiny_policy_dir), LORA)
        each.publish(3, each.path(0), tiny_lora(tiny_policy_dir), LORA)
    on_another_machine(monkeypatch, tmp_path)
    for version in range(4):
        files = [
            {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
            for path in (disk.local(version), store.local(version))
        ]
        assert files[0] == files[1]
    assert json.loads((store.location / "latest.json").get()) == {"version": 3, "directory": "v0003"}


def test_an_adapters_base_is_copied_next_to_it(
    store: PolicyStore[ObjectStorePath], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(1, store.path(0), tiny_lora(store.local(0)), LORA)
    expected = store.state(1)
    on_another_machine(monkeypatch, tmp_path)
    state = store.state(1)
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in state)
    assert sorted(path.name for path in store.local(1).parent.iterdir()) == ["v0000", "v0001"]


def test_of_many_versions_the_last_two_and_those_in_use_stay_on_a_machine(
    store: PolicyStore[ObjectStorePath], tiny_policy_dir: Path
) -> None:
    for version in range(1, 4):
        store.publish(version, tiny_policy_dir)
    copies = [store.local(version) for version in range(4)]
    for copy in copies:
        os.utime(copy, (0, 0))
    assert store.local(1).is_dir(), "although it is neither among the last two nor the base"
    assert sorted(path.name for path in copies[-1].parent.iterdir()) == ["v0001", "v0002", "v0003"]


def test_a_dropped_version_is_gone_from_the_store_and_the_machine(
    store: PolicyStore[ObjectStorePath], tiny_policy_dir: Path
) -> None:
    for version in (1, 2):
        store.publish(version, tiny_policy_dir)
    copy = store.local(1)
    for version in (0, 1, 2, 7):
        store.drop(version)
    assert store.versions() == [0, 2] and not copy.exists()
    assert not [name for name in store.location.sizes() if name.startswith("v0001")]
    with pytest.raises(CheckpointError, match=r"has no policy version 1, only \[0, 2\]"):
        store.local(1)


def test_another_run_at_the_same_location_is_not_taken_for_the_first(
    store: PolicyStore[ObjectStorePath], tiny_policy_dir: Path
) -> None:
    first = store.local(0)
    for name in store.location.sizes():
        (store.location / name).delete()
    weights = {key: value + 1 for key, value in load_file(tiny_policy_dir / "tangoflux.safetensors").items()}
    store.publish(0, tiny_policy_dir, weights)
    second = store.local(0)
    assert first != second
    assert (second / "tangoflux.safetensors").read_bytes() != (first / "tangoflux.safetensors").read_bytes()


def test_a_version_whose_upload_failed_does_not_exist(
    store: PolicyStore[ObjectStorePath], proxy: Proxy, cache: Path, tiny_policy_dir: Path
) -> None:
    faults: list[Fault | None] = [None, None, None, *["error" for _ in range(50)]]
    proxy.spoil(*faults, methods=("PUT", "POST"))
    with pytest.raises(ResourceError, match=r"v0001/\S+ cannot be written"):
        store.publish(1, tiny_policy_dir)
    proxy.spoil()
    assert store.versions() == [0]
    assert [path.name for path in cache.glob("*/v*")] == ["v0000"] and not list(cache.glob(".v*"))
    with pytest.raises(CheckpointError, match=r"has no policy version 1, only \[0\]"):
        local_policy(store.location / "v0001")
    store.publish(1, tiny_policy_dir)
    assert store.versions() == [0, 1]


def test_a_path_that_is_not_a_versions_is_refused(store: PolicyStore[ObjectStorePath]) -> None:
    with pytest.raises(CheckpointError, match=r"/model\?\S+ is not a version of a policy, such as \S+/v0000"):
        local_policy(store.location / "model")

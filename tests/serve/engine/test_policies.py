from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from actors.storage.object_store import ObjectStorePath
from actors.storage.policy_store import PolicyStore
from serve.engine.policies import BusyError, Policies, Versions
from tests.object_store import Fault, Proxy


@pytest.fixture
def run(tmp_path: Path, tiny_policy_dir: Path) -> Path:
    PolicyStore(tmp_path / "policies").publish(0, tiny_policy_dir)
    return tmp_path


def publish(run: Path, version: int, factor: float) -> None:
    store = PolicyStore(run / "policies")
    weights = load_file(store.path(0) / "tangoflux.safetensors")
    store.publish(version, store.path(0), {"fc.0.weight": weights["fc.0.weight"] * factor})


def test_a_new_version_is_the_latest_once_it_was_looked_for(run: Path) -> None:
    policies = Policies(Versions(run, is_run=True))
    policies.refresh()
    before = policies.latest
    assert before and before.version == "v0000"
    publish(run, 1, 2.0)
    assert policies.latest is before
    policies.refresh()
    after = policies.latest
    assert after and after.version == "v0001"
    weights = [resident.policy.state_dict()["fc.0.weight"] for resident in (before, after)]
    assert torch.equal(2 * weights[0], weights[1]), "and what is under way on the old one goes on with it"
    assert after.policy.text_encoder is before.policy.text_encoder, "which is large, and the same"
    future = policies.get("base")
    assert future and future.result() is before


def test_a_version_that_does_not_load_or_is_not_finite_is_refused_and_the_old_one_serves_on(run: Path) -> None:
    policies = Policies(Versions(run, is_run=True))
    policies.refresh()
    publish(run, 1, float("nan"))
    policies.refresh()
    publish(run, 2, 1.0)
    weights = run / "policies" / "v0002" / "tangoflux.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    policies.refresh()
    assert policies.latest and policies.latest.version == "v0000"
    assert "not finite" in policies.refused["v0001"] and "Safetensor" in policies.refused["v0002"]
    assert policies.get("v0001") is None
    publish(run, 3, 1.5)
    policies.refresh()
    assert policies.latest.version == "v0003"


def test_the_version_that_was_used_longest_ago_leaves_the_memory(run: Path) -> None:
    for version in (1, 2, 3):
        publish(run, version, 1 + version)
    policies = Policies(Versions(run, is_run=True), kept=2)
    policies.refresh()
    for name in ("v0001", "v0002"):
        future = policies.get(name)
        assert future and future.result().version == name
    resident = [name for name in policies.known() if policies.is_resident(name)]
    assert resident == ["v0002", "v0003"], "the latest stays"


def test_no_more_versions_are_loaded_at_once_than_may_be_in_memory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in range(1, 6):
        publish(run, version, 1 + version)
    policies = Policies(Versions(run, is_run=True), kept=3)
    policies.refresh()
    go_on, directory = threading.Event(), Versions.directory
    monkeypatch.setattr(Versions, "directory", lambda self, name: (go_on.wait(), directory(self, name))[1])
    futures = [policies.get(name) for name in ("v0001", "v0002")]
    with pytest.raises(BusyError, match="v0001, v0002 are being loaded; v0003 has to wait"):
        policies.get("v0003")
    assert policies.get("v0002") is futures[1], "which is on its way"
    latest = policies.get("latest")
    assert latest and latest.result().version == "v0005"
    go_on.set()
    assert [future.result().version for future in futures if future] == ["v0001", "v0002"]
    third = policies.get("v0003")
    assert third and third.result().version == "v0003"
    assert [name for name in policies.known() if policies.is_resident(name)] == ["v0002", "v0003", "v0005"]


def test_the_latest_serves_on_when_it_and_its_successors_are_gone(run: Path) -> None:
    publish(run, 1, 2.0)
    policies = Policies(Versions(run, is_run=True), kept=1)
    policies.refresh()
    publish(run, 2, float("nan"))
    PolicyStore(run / "policies").drop(1)
    policies.refresh()
    for name in ("latest", "v0001"):
        future = policies.get(name)
        assert future and future.result().version == "v0001"
    for _ in range(2):
        base = policies.get("base")
        assert base and base.result().version == "v0000"
    (run / "policies").rename(run / "elsewhere")
    policies.refresh()
    latest = policies.get("latest")
    assert latest and latest.result().version == "v0001" and policies.get("v0000") is None


def test_an_error_that_passes_is_told_and_the_version_is_tried_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = Policies(Versions(run, is_run=True))
    policies.refresh()
    publish(run, 1, 2.0)

    def stale(*_: object) -> None:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as disk:
        disk.setattr(PolicyStore, "state", stale)
        policies.refresh()
        assert policies.latest and policies.latest.version == "v0000" and "Stale" in policies.problem
        disk.setattr(PolicyStore, "versions", stale)
        policies.refresh()
        assert policies.get("latest")
    policies.refresh()
    assert policies.latest.version == "v0001" and not policies.problem and not policies.refused


def test_nothing_ends_the_following(run: Path) -> None:
    policies, over, looks = Policies(Versions(run, is_run=True)), threading.Event(), list[str]()

    def fail() -> None:
        looks.append(policies.problem)
        if len(looks) == 3:
            over.set()
        raise ValueError("no such gauge")

    policies.follow(0.01, over, fail)
    assert len(looks) == 3 and policies.latest and policies.problem == "ValueError: no such gauge"


def test_what_there_is_not_is_not_got(run: Path) -> None:
    policies = Policies(Versions(run, is_run=True))
    assert policies.latest is None and policies.get("latest") is None
    policies.refresh()
    assert policies.get("v0009") is None
    assert policies.get("../v0000") is None


def test_a_version_that_was_dropped_meanwhile_is_no_fault_of_its_own(run: Path) -> None:
    publish(run, 1, 2.0)
    policies = Policies(Versions(run, is_run=True))
    policies.refresh()
    publish(run, 2, 3.0)
    policies.refresh()
    PolicyStore(run / "policies").drop(1)
    policies = Policies(Versions(run, is_run=True))
    policies.refresh()
    assert policies.get("v0001") is None and not policies.refused


def test_a_single_model_is_both_base_and_latest(tiny_policy_dir: Path) -> None:
    policies = Policies(Versions(tiny_policy_dir, is_run=False))
    policies.refresh()
    futures = [policies.get(name) for name in ("base", "latest")]
    assert futures[0] and futures[1] and futures[0].result() is futures[1].result()
    assert policies.versions.figures() == {}


def test_a_run_in_an_object_store_is_followed(
    run: Path, bucket_dir: ObjectStorePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store, stored = PolicyStore(run / "policies"), PolicyStore(bucket_dir / "policies")
    stored.publish(0, store.path(0))
    policies = Policies(Versions(bucket_dir, is_run=True))
    policies.refresh()
    assert policies.latest and policies.latest.version == "v0000" and policies.versions.figures() == {}
    publish(run, 1, 2.0)
    stored.publish(1, store.path(1))
    policies.refresh()
    assert policies.latest.version == "v0001"
    before = policies.get("base")
    assert before
    pair = [resident.policy.state_dict()["fc.0.weight"] for resident in (before.result(), policies.latest)]
    assert torch.equal(2 * pair[0], pair[1])


def test_a_store_that_does_not_answer_is_told_and_the_policy_serves_on(
    run: Path, bucket_dir: ObjectStorePath, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    PolicyStore(bucket_dir / "policies").publish(0, PolicyStore(run / "policies").path(0))
    policies = Policies(Versions(bucket_dir, is_run=True))
    policies.refresh()
    faults: list[Fault] = ["error"] * 30
    proxy.spoil(*faults)
    policies.refresh()
    assert policies.latest and policies.problem
    proxy.spoil()
    policies.refresh()
    assert not policies.problem

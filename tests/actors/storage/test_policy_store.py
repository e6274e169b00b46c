from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from actors.storage.atomic import temporary_path
from actors.storage.policy_files import is_trained
from actors.storage.policy_store import PolicyStore
from tangoflux.errors import CheckpointError
from tangoflux.model.layout import EMBEDDED, TIED_KEY, load_policy
from tangoflux.pipeline import TangoFlux
from tests.tiny import LORA, tiny_lora


@pytest.fixture
def store(tmp_path: Path, tiny_policy_dir: Path) -> PolicyStore:
    store = PolicyStore(tmp_path / "policies")
    store.publish(0, tiny_policy_dir)
    return store


def moved(store: PolicyStore, version: int) -> dict[str, Tensor]:
    return {key: value + 0.5 for key, value in store.state(version).items()}


def test_a_version_is_a_model_directory_with_the_new_weights(store: PolicyStore, tiny_policy_dir: Path) -> None:
    weights = moved(store, 0)
    directory = store.publish(1, store.path(0), weights)
    new, old = load_policy(directory).state_dict(), load_policy(tiny_policy_dir).state_dict()
    for key, value in new.items():
        torch.testing.assert_close(value, old[key] + 0.5 if is_trained(key) else old[key], rtol=0, atol=0)


def test_a_whole_state_dict_is_taken_without_its_tied_tensor(store: PolicyStore) -> None:
    weights = load_policy(store.path(0)).state_dict()
    assert TIED_KEY in weights
    with safe_open(store.publish(1, store.path(0), weights) / "tangoflux.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(weights) - {TIED_KEY}


def test_the_state_is_what_alignment_trains(store: PolicyStore) -> None:
    state = store.state(0)
    trained = {name for name, parameter in load_policy(store.path(0)).named_parameters() if parameter.requires_grad}
    assert {key for key in state if key in trained} == trained
    assert {key.split(".")[0] for key in state} == {"transformer", "fc", "duration_emebdder"}


def test_the_first_version_is_a_copy_and_later_ones_share_what_did_not_change(
    store: PolicyStore, tiny_policy_dir: Path
) -> None:
    store.publish(1, store.path(0), moved(store, 0))
    names = ("config.json", "vae.safetensors", "vae_config.json", "text_encoder/config.json")
    for name in names:
        assert not os.path.samefile(tiny_policy_dir / name, store.path(0) / name), "the user's files are not ours"
        assert os.path.samefile(store.path(0) / name, store.path(1) / name)
    assert not os.path.samefile(store.path(0) / "tangoflux.safetensors", store.path(1) / "tangoflux.safetensors")


@pytest.mark.parametrize("umask", [0o022, 0o007, 0o077])
def test_permissions_follow_the_umask_whatever_those_of_the_source(
    tmp_path: Path, tiny_policy_dir: Path, umask: int
) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_policy_dir, source)
    for path in (*source.rglob("*"), source):
        path.chmod(0o500)
    before = os.umask(umask)
    try:
        store = PolicyStore(tmp_path / "policies")
        store.publish(0, source)
        store.publish(1, store.path(0), moved(store, 0))
    finally:
        os.umask(before)
    for path in store.location.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_the_pointer_follows_the_highest_version(store: PolicyStore) -> None:
    store.publish(2, store.path(0), moved(store, 0))
    store.publish(1, store.path(0), moved(store, 0))
    assert store.versions() == [0, 1, 2]
    pointer = json.loads((store.location / "latest.json").read_text())
    assert pointer == {"version": 2, "directory": "v0002"}


def test_a_published_version_does_not_change(store: PolicyStore) -> None:
    before = store.state(0)
    store.publish(0, store.path(0), moved(store, 0))
    for key, value in store.state(0).items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_what_a_crash_left_is_no_version_and_is_cleared_by_the_next_publish(store: PolicyStore) -> None:
    torn = temporary_path(store.location / "v0001")
    torn.mkdir()
    (torn / "tangoflux.safetensors").write_bytes(b"half")
    assert store.versions() == [0]
    store.publish(1, store.path(0), moved(store, 0))
    assert store.versions() == [0, 1]
    assert not torn.exists()


def test_a_version_without_its_pointer_is_pointed_to_by_publishing_it_again(store: PolicyStore) -> None:
    (store.location / "latest.json").unlink()
    store.publish(0, store.path(0))
    assert json.loads((store.location / "latest.json").read_text())["version"] == 0


def test_weights_of_another_model_are_refused_and_leave_nothing(store: PolicyStore) -> None:
    with pytest.raises(CheckpointError, match=r"has no tensors decoder\.weight"):
        store.publish(1, store.path(0), {"decoder.weight": torch.zeros(1)})
    key = next(iter(store.state(0)))
    with pytest.raises(CheckpointError, match=r"is \(1, 2, 3\), expected"):
        store.publish(1, store.path(0), {key: torch.zeros(1, 2, 3)})
    assert sorted(path.name for path in store.location.iterdir()) == ["latest.json", "v0000"]


def test_a_source_that_is_no_model_is_refused(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "policies")
    with pytest.raises(CheckpointError, match=r"config\.json is missing: is .* a model directory\?"):
        store.publish(0, tmp_path)
    assert store.versions() == []


def test_an_unknown_version_is_refused(store: PolicyStore) -> None:
    with pytest.raises(CheckpointError, match=r"no policy version 4, only \[0\]"):
        store.path(4)


# LoRA


def same_policy(directory: Path, other: Path) -> bool:
    first, second = load_policy(directory).state_dict(), load_policy(other).state_dict()
    return all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_lora_version_is_a_directory_of_small_files_beside_its_base(store: PolicyStore) -> None:
    directory = store.publish(1, store.path(0), tiny_lora(store.path(0)), LORA)
    assert sorted(path.name for path in directory.iterdir()) == [
        *("adapter_config.json", "adapter_model.safetensors", "base.json"),
        *("conditioning.safetensors", "config.json", "vae_config.json"),
    ]
    assert json.loads((directory / "base.json").read_text()) == {"base": "../v0000"}
    again = store.publish(2, directory, tiny_lora(directory, seed=1), LORA)
    assert json.loads((again / "base.json").read_text()) == {"base": "../v0000"}


def test_a_lora_version_takes_a_small_share_of_a_whole_ones_disk(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    store.publish(0, EMBEDDED["miniature"])
    directory = store.publish(1, store.path(0), tiny_lora(store.path(0)), LORA)
    sizes = [sum(file.stat().st_size for file in path.rglob("*")) for path in (store.path(0), directory)]
    assert sizes[1] < 0.1 * sizes[0]


def test_the_state_of_a_lora_version_is_that_of_the_policy_that_its_directory_gives(store: PolicyStore) -> None:
    store.publish(1, store.path(0), tiny_lora(store.path(0)), LORA)
    expected = load_policy(store.path(1)).state_dict()
    state = store.state(1)
    assert state.keys() == store.state(0).keys()
    assert all(torch.equal(value, expected[key]) for key, value in state.items())


def test_a_lora_training_of_a_policy_that_is_no_version_of_the_store_makes_a_whole_one(
    tmp_path: Path, tiny_policy_dir: Path, store: PolicyStore
) -> None:
    small = store.publish(1, store.path(0), tiny_lora(store.path(0)), LORA)
    whole = PolicyStore(tmp_path / "other").publish(1, tiny_policy_dir, tiny_lora(store.path(0)), LORA)
    assert same_policy(whole, small) and not (whole / "base.json").exists()


def test_a_store_that_starts_from_anothers_lora_version_holds_it_whole(tmp_path: Path, store: PolicyStore) -> None:
    small = store.publish(1, store.path(0), tiny_lora(store.path(0)), LORA)
    copy = PolicyStore(tmp_path / "other").publish(0, small)
    assert same_policy(copy, small)
    assert TangoFlux.from_pretrained(copy).generate("a dog barks", 1.0, num_steps=1)


def test_all_weights_may_be_trained_after_a_lora_version(store: PolicyStore) -> None:
    store.publish(1, store.path(0), tiny_lora(store.path(0)), LORA)
    store.publish(2, store.path(1), {"fc.0.bias": torch.ones(16)})
    expected = {**store.state(1), "fc.0.bias": torch.ones(16)}
    assert all(torch.equal(value, expected[key]) for key, value in store.state(2).items())


def test_an_adapter_of_another_model_is_refused_and_leaves_nothing(store: PolicyStore) -> None:
    trained = tiny_lora(store.path(0))
    del trained["fc.0.bias"]
    with pytest.raises(CheckpointError, match=r"what was trained does not fit .*: fc\.0\.bias"):
        store.publish(1, store.path(0), trained, LORA)
    assert store.versions() == [0]

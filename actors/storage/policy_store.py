"""Versions of the policy, each a directory that anyone can load: the published layout, or an adapter beside it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from actors.storage.atomic import atomic_directory, atomic_write, explain_disk_errors
from tangoflux.errors import CheckpointError
from tangoflux.model.adapter_files import base_directory, with_adapter, write_adapter
from tangoflux.model.checkpoint import read_json, read_shapes, read_weights
from tangoflux.model.layout import TIED_KEY
from tangoflux.model.lora import LoraSettings, check_trained, merge

WEIGHTS = "tangoflux.safetensors"
CONFIGS = ("config.json", "vae_config.json")
FROZEN = (*CONFIGS, "vae.safetensors", "text_encoder")
"""What alignment does not change: files and directories of the published layout."""

POINTER = "latest.json"


class PolicyStore:
    """``v0000``, ``v0001``, ... and a pointer to the latest; a version is there whole or not at all.

    One process publishes; any number reads, also while a version is published.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def publish(
        self,
        version: int,
        source: Path,
        weights: Mapping[str, Tensor] | None = None,
        lora: LoraSettings | None = None,
    ) -> Path:
        """Makes ``version`` from another one, and moves the pointer to it unless it points to a later one.

        What does not change is hard-linked where ``source`` is a version of this store, else copied. A version that
        is there already is left as it is. A version trained with LoRA is a directory of small files where its base is a
        version of this store, see ``tangoflux.model.adapter_files``; else its adapter is merged into whole weights.

        Args:
            version: its number, >= 0.
            source: a directory in the published layout or of an adapter.
            weights: what replaces tensors of the policy, by the published names (``policy.state_dict()`` or a part of
                it); the others stay as in ``source``. With ``lora`` all that it trained, by the names of a policy with
                an adapter.
            lora: the settings of that adapter.

        Returns:
            the version's directory.

        Raises:
            CheckpointError: ``source`` is no model directory, or ``weights`` do not fit it.
            ResourceError: the disk is full or the store cannot be written.
        """
        target = self._directory_of(version)
        if not target.is_dir():
            base = base_directory(source)
            _check_layout(base)
            if weights and lora and self._holds(base):
                self._publish_adapter(target, base, weights, lora)
            else:
                self._publish_whole(target, base, _new_weights(source, weights, lora))
        if version >= self._pointed():
            with atomic_write(self.directory / POINTER) as temporary:
                temporary.write_text(json.dumps({"version": version, "directory": target.name}) + "\n")
        return target

    def drop(self, version: int) -> None:
        """Removes a version, whole; neither version 0, which others may share files with, nor the one pointed to.

        Raises:
            ResourceError: the store cannot be written.
        """
        directory = self._directory_of(version)
        if version in (0, self._pointed()) or not directory.is_dir():
            return
        leaving = directory.with_name(f".{directory.name}.dropped")
        with explain_disk_errors(directory):
            directory.rename(leaving)
            shutil.rmtree(leaving)

    def versions(self) -> list[int]:
        """All versions, ascending."""
        if not self.directory.is_dir():
            return []
        names = (re.fullmatch(r"v(\d{4,})", path.name) for path in self.directory.iterdir())
        return sorted(int(match[1]) for match in names if match)

    def latest(self) -> int:
        """The version that the pointer names.

        Raises:
            CheckpointError: nothing was published yet.
        """
        version = self._pointed()
        if version < 0:
            raise CheckpointError(f"{self.directory} holds no policy: {POINTER} is missing")
        return version

    def path(self, version: int) -> Path:
        """The directory of a version.

        Raises:
            CheckpointError: there is no such version.
        """
        path = self._directory_of(version)
        if not path.is_dir():
            raise CheckpointError(f"{self.directory} has no policy version {version}, only {self.versions()}")
        return path

    def state(self, version: int) -> dict[str, Tensor]:
        """The tensors that alignment trains (all but the text encoder's), as ``RolloutWorker.set_policy`` takes them.

        An adapter is merged in, so that a worker needs to know nothing of it.

        Raises:
            CheckpointError: there is no such version.
        """
        directory = self.path(version)
        with safe_open(base_directory(directory) / WEIGHTS, framework="pt") as file:
            base = {key: file.get_tensor(key) for key in file.keys() if is_trained(key)}  # noqa: SIM118
        return with_adapter(base, directory)

    def _directory_of(self, version: int) -> Path:
        return self.directory / f"v{version:04d}"

    def _pointed(self) -> int:
        pointer = self.directory / POINTER
        return int(read_json(pointer)["version"]) if pointer.exists() else -1

    def _holds(self, directory: Path) -> bool:
        return directory.resolve().parent == self.directory.resolve()

    def _publish_adapter(self, target: Path, base: Path, trained: Mapping[str, Tensor], settings: LoraSettings) -> None:
        check_trained(read_shapes(base / WEIGHTS), trained, settings, "what was trained")
        with atomic_directory(target) as temporary:
            for name in CONFIGS:
                _take(base / name, temporary / name, link=True)
            write_adapter(temporary, f"../{base.resolve().name}", settings, trained)

    def _publish_whole(self, target: Path, base: Path, weights: Mapping[str, Tensor] | None) -> None:
        with atomic_directory(target) as temporary:
            for name in FROZEN if weights else (*FROZEN, WEIGHTS):
                _take(base / name, temporary / name, self._holds(base))
            if weights:
                save_file(dict(weights), temporary / WEIGHTS)


def is_trained(key: str) -> bool:
    """Whether alignment changes the policy's tensor of this name: all but the text encoder's."""
    return not key.startswith("text_encoder.")


def _check_layout(source: Path) -> None:
    for name in ("config.json", "vae.safetensors", WEIGHTS):
        if not (source / name).is_file():
            raise CheckpointError(f"{source / name} is missing: is {source} a model directory?")


def _new_weights(
    source: Path, weights: Mapping[str, Tensor] | None, lora: LoraSettings | None
) -> dict[str, Tensor] | None:
    """The whole policy of ``source`` with ``weights``; None where it is that of the source's own file."""
    base = base_directory(source)
    if not weights and base == source:
        return None
    stored = read_weights(base / WEIGHTS)
    if weights and lora:
        return merge(stored, weights, lora, "what was trained")
    return _replace(with_adapter(stored, source), weights or {}, base / WEIGHTS)


def _replace(stored: dict[str, Tensor], weights: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    weights = {key: value for key, value in weights.items() if key != TIED_KEY}
    unknown = sorted(set(weights) - set(stored))
    if unknown:
        raise CheckpointError(f"{source} has no tensors {', '.join(unknown[:5])}: these weights are of another model")
    for key, value in weights.items():
        if value.shape != stored[key].shape:
            raise CheckpointError(f"{key} is {tuple(value.shape)}, expected {tuple(stored[key].shape)} as in {source}")
    return {**stored, **{key: value.detach().cpu().contiguous() for key, value in weights.items()}}


def _take(source: Path, target: Path, link: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link if link else shutil.copyfile)
    elif source.exists():
        (_link if link else shutil.copyfile)(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)

"""Versions of the policy, each a directory in the published layout that anyone can load."""

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

from actors.files import whole_directory, whole_file
from tangoflux.checkpoint import read_json, read_weights
from tangoflux.errors import CheckpointError
from tangoflux.model import TIED_KEY

WEIGHTS = "tangoflux.safetensors"
FROZEN = ("config.json", "vae.safetensors", "vae_config.json", "text_encoder")
"""What alignment does not change: files and directories of the published layout."""

POINTER = "latest.json"


class PolicyStore:
    """``v0000``, ``v0001``, ... and a pointer to the latest; a version is there whole or not at all.

    One process publishes; any number reads, also while a version is published.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def publish(self, version: int, source: Path, weights: Mapping[str, Tensor] | None = None) -> Path:
        """Makes ``version`` from another one, and moves the pointer to it unless it points to a later one.

        What does not change is hard-linked where ``source`` is a version of this store, else copied. A version that
        is there already is left as it is.

        Args:
            version: its number, >= 0.
            source: a directory in the published layout.
            weights: what replaces tensors of the policy, by the published names (``policy.state_dict()`` or a part of
                it); the others stay as in ``source``.

        Returns:
            the version's directory.

        Raises:
            CheckpointError: ``source`` is no model directory, or ``weights`` do not fit it.
            ResourceError: the disk is full or the store cannot be written.
        """
        target = self._directory_of(version)
        if not target.is_dir():
            merged = _merge(source / WEIGHTS, weights) if weights else None
            _check_layout(source)
            with whole_directory(target) as temporary:
                self._fill(temporary, source, merged)
        if version >= self._pointed():
            with whole_file(self.directory / POINTER) as temporary:
                temporary.write_text(json.dumps({"version": version, "directory": target.name}) + "\n")
        return target

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

        Raises:
            CheckpointError: there is no such version.
        """
        with safe_open(self.path(version) / WEIGHTS, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys() if is_trained(key)}  # noqa: SIM118

    def _directory_of(self, version: int) -> Path:
        return self.directory / f"v{version:04d}"

    def _pointed(self) -> int:
        pointer = self.directory / POINTER
        return int(read_json(pointer)["version"]) if pointer.exists() else -1

    def _fill(self, target: Path, source: Path, weights: Mapping[str, Tensor] | None) -> None:
        link = source.resolve().parent == self.directory.resolve()
        for name in FROZEN if weights else (*FROZEN, WEIGHTS):
            _take(source / name, target / name, link)
        if weights:
            save_file(dict(weights), target / WEIGHTS)


def is_trained(key: str) -> bool:
    """Whether alignment changes the policy's tensor of this name: all but the text encoder's."""
    return not key.startswith("text_encoder.")


def _check_layout(source: Path) -> None:
    for name in ("config.json", "vae.safetensors", WEIGHTS):
        if not (source / name).is_file():
            raise CheckpointError(f"{source / name} is missing: is {source} a model directory?")


def _merge(base: Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    merged = read_weights(base)
    weights = {key: value for key, value in weights.items() if key != TIED_KEY}
    unknown = sorted(set(weights) - set(merged))
    if unknown:
        raise CheckpointError(f"{base} has no tensors {', '.join(unknown[:5])}: these weights are of another model")
    for key, value in weights.items():
        if value.shape != merged[key].shape:
            raise CheckpointError(f"{key} is {tuple(value.shape)}, expected {tuple(merged[key].shape)} as in {base}")
        merged[key] = value.detach().cpu().contiguous()
    return merged


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

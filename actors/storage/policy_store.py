"""Versions of the policy, on a disk or in an object store; each is a directory that can be loaded.

A version is complete or absent. On a disk its directory gets its name when all its files are written. In an object
store ``v0003.json`` is put after all objects of ``v0003/``: it commits the version, with an id and the files' sizes.
Each machine keeps a local copy of the stored versions that it loads.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic

from torch import Tensor

from actors.storage.atomic import atomic_directory, explain_disk_errors
from actors.storage.object_store import Directory, Location, ObjectStorePath
from actors.storage.paths import cache_dir, remove_below, sizes, write
from actors.storage.policy_files import read_state, write_version
from tangoflux.errors import CheckpointError
from tangoflux.model.adapter_files import BASE
from tangoflux.model.checkpoint import read_json
from tangoflux.model.lora import LoraSettings

POINTER = "latest.json"

UNUSED_S = 3600.0
"""A local copy that was not requested for this long may be removed."""


def version_name(version: int) -> str:
    """The name of a version's directory."""
    return f"v{version:04d}"


def version_number(name: str) -> int | None:
    """The version whose directory has this name; None if it is not a version's name."""
    match = re.fullmatch(r"v(\d{4,})", name)
    return int(match[1]) if match else None


class PolicyStore(Generic[Directory]):
    """``v0000``, ``v0001``, ... and a pointer to the latest.

    One process publishes; any number of processes read, also while a version is being published.
    """

    def __init__(self, location: Directory) -> None:
        self.location = location

    def publish(
        self,
        version: int,
        source: Location,
        weights: Mapping[str, Tensor] | None = None,
        lora: LoraSettings | None = None,
    ) -> Directory:
        """Makes ``version`` from another one unless it exists, and moves the pointer to the latest version.

        Files that do not change are hard-linked where ``source`` is a version of this store, else copied. A version
        trained with LoRA is a directory of small files where its base is a version of this store, see
        ``tangoflux.model.adapter_files``; else its adapter is merged into a complete file of weights.

        Args:
            version: its number, >= 0.
            source: a directory in the published layout or of an adapter.
            weights: new values for tensors of the policy, by the published names (``policy.state_dict()`` or a part of
                it); the others stay as in ``source``. With ``lora`` everything that it trained, by the names of a
                policy with an adapter.
            lora: the settings of that adapter.

        Returns:
            the version's directory.

        Raises:
            CheckpointError: ``source`` is not a model directory, or ``weights`` do not fit it.
            ResourceError: the disk is full or the store cannot be written.
        """
        target = self.location / version_name(version)
        if version not in self.versions():
            local_source = local_policy(source)
            if isinstance(target, Path):
                with atomic_directory(target) as directory:
                    write_version(directory, target.parent, local_source, weights, lora)
            else:
                with self._new_copy(version) as directory:
                    siblings = self._copies() if version > 0 else None
                    write_version(directory, siblings, local_source, weights, lora)
                    self._upload(directory, target)
        latest = max(self.versions())
        pointer = json.dumps({"version": latest, "directory": version_name(latest)}) + "\n"
        write(self.location / POINTER, pointer.encode())
        return target

    def drop(self, version: int) -> None:
        """Removes a version, but neither version 0, with which others may share files, nor the latest.

        Raises:
            ResourceError: the store cannot be written.
        """
        versions = self.versions()
        if version not in versions or version in (0, versions[-1]):
            return
        directory = self.location / version_name(version)
        if isinstance(directory, ObjectStorePath):
            self._commit(version).delete()
            remove_below(directory)
            remove_below(self._copies() / directory.name)
            return
        dropped = directory.with_name(f".{directory.name}.dropped")
        with explain_disk_errors(directory):
            directory.rename(dropped)
            shutil.rmtree(dropped)

    def versions(self) -> list[int]:
        """All versions in ascending order.

        Raises:
            ResourceError: the store does not answer.
        """
        if isinstance(self.location, ObjectStorePath):
            names = [name.removesuffix(".json") for name in self.location.sizes() if name.endswith(".json")]
        else:
            names = [path.name for path in self.location.iterdir()] if self.location.is_dir() else []
        return sorted(version for version in map(version_number, names) if version is not None)

    def path(self, version: int) -> Directory:
        """The directory of a version.

        Raises:
            CheckpointError: there is no such version.
            ResourceError: the store does not answer.
        """
        if version not in (versions := self.versions()):
            raise CheckpointError(f"{self.location} has no policy version {version}, only {versions}")
        return self.location / version_name(version)

    def local(self, version: int) -> Path:
        """A directory of this machine with the version: its own on a disk, else a copy that is made once a machine.

        An adapter's base is copied next to it.

        Raises:
            CheckpointError: there is no such version.
            ResourceError: the store does not answer, or the disk is full.
        """
        if isinstance(self.location, Path):
            return self.location / self.path(version).name
        directory = self._copies() / version_name(version)
        if not directory.is_dir():
            self._download(version)
        if (directory / BASE).exists():
            base = version_number(Path(str(read_json(directory / BASE)["base"])).name)
            self.local(base or 0)
        directory.touch()
        _prune(directory.parent)
        return directory

    def state(self, version: int) -> dict[str, Tensor]:
        """The tensors that alignment trains (all but the text encoder's), for ``RolloutWorker.set_policy``.

        An adapter is merged in, so that workers need to know nothing about it.

        Raises:
            CheckpointError, ResourceError: see ``local``.
        """
        return read_state(self.local(version))

    def _commit(self, version: int) -> Any:
        return self.location / f"{version_name(version)}.json"

    def _copies(self) -> Path:
        """This machine's copies. They depend on the base's id too: another run may have had the same location."""
        key = hashlib.sha256(str(self.location).encode() + self._commit(0).get()).hexdigest()[:16]
        return cache_dir() / "policies" / key

    def _upload(self, directory: Path, target: ObjectStorePath) -> None:
        files = sizes(directory)
        for file in files:
            (target / file).put(directory / file)
        (target.parent / f"{target.name}.json").put(json.dumps({"id": uuid.uuid4().hex, "files": files}).encode())

    def _download(self, version: int) -> None:
        stored: Any = self.path(version)
        with self._new_copy(version) as directory:
            for file in json.loads(self._commit(version).get())["files"]:
                (stored / file).fetch(directory / file)

    @contextmanager
    def _new_copy(self, version: int) -> Generator[Path]:
        """Yields an empty directory, which is this machine's copy of the version when the block has succeeded.

        Several processes of a machine may make the same copy at the same time.
        """
        root = cache_dir() / "policies"
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{version_name(version)}-", dir=root))
        try:
            yield temporary
            directory = self._copies() / version_name(version)
            directory.parent.mkdir(exist_ok=True)
            if not directory.is_dir():
                _move(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def local_policy(policy: Location) -> Path:
    """A directory of this machine with the policy: ``policy`` itself, or a copy of the stored version.

    Raises:
        CheckpointError, ResourceError: see ``PolicyStore.local``.
    """
    if isinstance(policy, Path):
        return policy
    version = version_number(policy.name)
    if version is None:
        raise CheckpointError(f"{policy} is not a version of a policy, such as {policy.parent / version_name(0)}")
    return PolicyStore(policy.parent).local(version)


def _prune(copies: Path) -> None:
    """Removes copies that were not requested in a while, except the last two: other processes may read the rest."""
    for old in sorted(copies.glob("v*"))[:-2]:
        if time.time() - old.stat().st_mtime > UNUSED_S:
            shutil.rmtree(old, ignore_errors=True)


def _move(temporary: Path, directory: Path) -> None:
    try:
        temporary.rename(directory)
    except OSError:  # another process has made the copy in the meantime
        if not directory.is_dir():
            raise

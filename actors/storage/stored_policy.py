"""Versions of the policy in an object store: put by the driver, copied once to each machine that loads one.

policies/v0003/...      the version's files
policies/v0003.json     put last: names and sizes of the files, and an id; without it there is no such version
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import time
import uuid
from pathlib import Path

from actors.storage.object_store import Location, ObjectStorePath
from actors.storage.paths import cache_dir
from tangoflux.errors import CheckpointError
from tangoflux.model.adapter_files import BASE
from tangoflux.model.checkpoint import read_json

UNUSED_S = 3600.0
"""Seconds after which a copy that nobody asks for may be removed."""


def put_version(directory: Path, place: ObjectStorePath) -> None:
    """Puts a version's directory to ``place`` (``.../policies/v0003``), unless it is there.

    Raises:
        ResourceError: the store does not take it.
    """
    store, name = place.parent, place.name
    if (store / f"{name}.json").find() is not None:
        return
    files = {file.relative_to(directory).as_posix(): file for file in directory.rglob("*") if file.is_file()}
    for relative, file in files.items():
        (place / relative).put(file)
    sizes = {relative: file.stat().st_size for relative, file in files.items()}
    (store / f"{name}.json").put(json.dumps({"id": uuid.uuid4().hex, "files": sizes}).encode())


def drop_version(place: ObjectStorePath) -> None:
    """Removes a version, its commit first.

    Raises:
        ResourceError: the store does not answer.
    """
    (place.parent / f"{place.name}.json").delete()
    for name in place.sizes():
        (place / name).delete()


def stored_versions(store: ObjectStorePath) -> list[str]:
    """The names of the whole versions in order.

    Raises:
        ResourceError: the store does not answer.
    """
    return sorted(name.removesuffix(".json") for name in store.sizes() if re.fullmatch(r"v\d{4,}\.json", name))


def fetch_version(place: ObjectStorePath, directory: Path) -> None:
    """Copies a version to ``directory``, which is there whole or not at all; one that is there stays as it is.

    Raises:
        CheckpointError: there is no such version.
        ResourceError: the store does not answer, or the disk is full.
    """
    if directory.is_dir():
        return
    commit = (place.parent / f"{place.name}.json").find()
    if commit is None:
        raise CheckpointError(f"{place} is no version of a policy: it was not put whole, or was dropped")
    directory.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: several processes of a machine may want the same version.
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        for name in json.loads(commit)["files"]:
            (place / name).fetch(temporary / name)
        _move(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def local_policy(policy: Location) -> Path:
    """A directory of this machine with the policy: ``policy`` itself, or a copy of the version, made once a machine.

    An adapter's base is copied beside it.

    Raises:
        CheckpointError, ResourceError: see ``fetch_version``.
    """
    if isinstance(policy, Path):
        return policy
    # By the base's id too, as another run may have been here before.
    base = (policy.parent / "v0000.json").get()
    key = hashlib.sha256(str(policy.parent).encode() + base).hexdigest()[:16]
    directory = cache_dir() / "policies" / key / policy.name
    fetch_version(policy, directory)
    if (directory / BASE).exists():
        name = Path(str(read_json(directory / BASE)["base"])).name
        fetch_version(policy.parent / name, directory.with_name(name))
        directory.with_name(name).touch()
    directory.touch()
    _prune(directory.parent)
    return directory


def _prune(copies: Path) -> None:
    """Removes what nobody has asked for in a while, but for the last two: other processes may read the rest."""
    for old in sorted(copies.glob("v*"))[:-2]:
        if time.time() - old.stat().st_mtime > UNUSED_S:
            shutil.rmtree(old, ignore_errors=True)


def _move(temporary: Path, directory: Path) -> None:
    try:
        temporary.rename(directory)
    except OSError:
        if not directory.is_dir():
            raise

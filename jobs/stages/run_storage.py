"""Where a run lives: a directory, or a prefix in an object store and a working copy of its small files beside it.

Shards and the learner's checkpoints go to the store at once, from where they arise. What the driver alone writes
(metrics, TensorBoard, samples, the report, policies) arises in the working copy and is put at the end of each stage.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from actors.cluster.live_run import POOLS
from actors.storage.object_store import Location, ObjectStorePath
from actors.storage.paths import cache_dir
from actors.storage.run_lock import LOCK, RunLock
from actors.storage.stored_policy import drop_version, fetch_version, put_version, stored_versions
from jobs.stages.failed_chunks import FILE as SET_ASIDE

POLICIES = "policies"

NOT_COPIED = (f"{LOCK}/", POOLS, f"{POLICIES}/", "rollouts/", "preferences/", "heldout/")
"""What others write, or what has its own way; of the learner only the results are."""


class RunStorage:
    """One run's. ``root`` is what all machines see; ``local`` is this machine's, and the same where that is a disk."""

    def __init__(self, root: Location, local: Path) -> None:
        self.root, self.local = root, local
        self._put: dict[str, tuple[int, int]] = {}

    def policy(self, version: int) -> Location:
        """A version of the policy, as workers on any machine load it."""
        return self.root / POLICIES / f"v{version:04d}"

    def pull(self) -> None:
        """Makes the working copy of what is in the store, with the base policy and the latest two.

        An iteration that was broken off after its policy was published may still need the one before it.

        Raises:
            ResourceError: the store does not answer, or the disk is full.
        """
        if isinstance(self.root, Path):
            return
        for name in _copy_small_files(self.root, self.local):
            self._put[name] = _state(self.local / name)
        versions = stored_versions(self.root / POLICIES)
        for name in {*versions[:1], *versions[-2:]}:
            fetch_version(self.root / POLICIES / name, self.local / POLICIES / name)

    def push(self) -> None:
        """Puts what is new, metrics before policies: a resume goes by these, and must then find the others.

        Raises:
            ResourceError: the store does not take it.
        """
        if isinstance(self.root, Path):
            return
        files = {path.relative_to(self.local).as_posix(): path for path in self.local.rglob("*") if path.is_file()}
        files = {name: path for name, path in files.items() if _is_copied(name)}
        for name, path in files.items():
            state = _state(path)
            if self._put.get(name) != state:
                (self.root / name).put(path)
                self._put[name] = state
        for name in set(self._put) - set(files):
            (self.root / name).delete()
            del self._put[name]
        for directory in sorted((self.local / POLICIES).glob("v*")):
            put_version(directory, self.root / POLICIES / directory.name)

    def drop_policy(self, version: int) -> None:
        """Removes a version from the store, if it is there; the working copy's is ``PolicyStore.drop``'s.

        Raises:
            ResourceError: the store does not answer.
        """
        place = self.policy(version)
        if isinstance(place, ObjectStorePath) and place.name in stored_versions(place.parent):
            drop_version(place)


@contextmanager
def opened(run_dir: Location) -> Generator[RunStorage]:
    """The run's place, for this process alone as long as the block lasts.

    Raises:
        ConfigError: another driver has it.
        ResourceError: disk or store do not do their part.
    """
    if isinstance(run_dir, Path):
        with RunLock(run_dir):
            yield RunStorage(run_dir, run_dir)
        return
    key = hashlib.sha256(str(run_dir).encode()).hexdigest()[:16]
    local = cache_dir() / "runs" / key / run_dir.name
    with RunLock(run_dir):
        shutil.rmtree(local, ignore_errors=True)  # what a driver that was killed left
        place = RunStorage(run_dir, local)
        try:
            place.pull()
            yield place
        finally:
            shutil.rmtree(local, ignore_errors=True)


@contextmanager
def small_files(run_dir: Location) -> Generator[Path]:
    """What the driver writes but for policies, as a local directory as long as the block lasts. Takes no lock.

    Raises:
        ResourceError: the store does not answer, or the disk is full.
    """
    if isinstance(run_dir, Path):
        yield run_dir
        return
    with tempfile.TemporaryDirectory(prefix="tangoflux-") as directory:
        local = Path(directory) / run_dir.name
        _copy_small_files(run_dir, local)
        yield local


def _copy_small_files(place: ObjectStorePath, directory: Path) -> list[str]:
    names = [name for name in place.sizes() if _is_copied(name)]
    for name in names:
        (place / name).fetch(directory / name)
    return names


def _is_copied(name: str) -> bool:
    if name.endswith(f"/{SET_ASIDE}"):
        return True
    if name.startswith("learner/"):
        return name.endswith("/result.json")
    return not name.startswith(NOT_COPIED) and not name.endswith(".tmp")


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size

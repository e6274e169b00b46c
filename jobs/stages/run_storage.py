"""A run's files: in a directory, or in an object store with a local working copy of the small files.

Shards, policies and the learner's checkpoints are written to the object store directly. The other files of the driver
(metrics, TensorBoard, samples, the report) are written to the working copy and uploaded at the end of each stage.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.cluster.live_run import POOLS
from actors.storage.layout import POLICIES, PREFERENCES, ROLLOUTS, iteration_name
from actors.storage.object_store import Location, ObjectStorePath
from actors.storage.paths import absolute, cache_dir
from actors.storage.policy_store import PolicyStore
from actors.storage.run_lock import LOCK, RunLock
from jobs.stages.failed_chunks import FILE as FAILED_CHUNKS

NOT_COPIED = (f"{LOCK}/", POOLS, f"{POLICIES}/", f"{ROLLOUTS}/", f"{PREFERENCES}/", "heldout/")
"""Written to the store directly, or by other processes. Of the learner's files, only the results are copied."""


class RunStorage:
    """The files of one run.

    Attributes:
        root: what all machines see.
        local: a directory of the driver's machine: the root itself, or the working copy.
        policies: the versions of the policy.
    """

    def __init__(self, root: Location, local: Path) -> None:
        self.root, self.local = root, local
        self.policies = PolicyStore[Any](root / POLICIES)
        self._uploaded: dict[str, tuple[int, int]] = {}

    def rollouts(self, iteration: int) -> Location:
        """The directory of an iteration's rollout shards, as workers on any machine see it."""
        return absolute(self.root) / ROLLOUTS / iteration_name(iteration)

    def preferences(self, iteration: int) -> Location:
        """The directory of the shards of an iteration's preference pairs, as workers on any machine see it."""
        return absolute(self.root) / PREFERENCES / iteration_name(iteration)

    def pull(self) -> None:
        """Downloads the small files to the working copy.

        Raises:
            ResourceError: the store does not answer, or the disk is full.
        """
        if isinstance(self.root, ObjectStorePath):
            self.local.mkdir(parents=True, exist_ok=True)
            for name in _download_small_files(self.root, self.local):
                self._uploaded[name] = _state(self.local / name)

    def push(self) -> None:
        """Uploads the small files that have changed, and deletes from the store those that are gone.

        To be called before a policy is published: a resume finds the policy, and must find its metrics too.

        Raises:
            ResourceError: the store refuses them or does not answer.
        """
        if isinstance(self.root, Path):
            return
        files = {path.relative_to(self.local).as_posix(): path for path in self.local.rglob("*") if path.is_file()}
        files = {name: path for name, path in files.items() if _is_small(name)}
        for name, path in files.items():
            state = _state(path)
            if self._uploaded.get(name) != state:
                (self.root / name).put(path)
                self._uploaded[name] = state
        for name in set(self._uploaded) - set(files):
            (self.root / name).delete()
            del self._uploaded[name]


@contextmanager
def open_run(run_dir: Location) -> Generator[RunStorage]:
    """Locks a run for this process and yields its files, until the block ends.

    Raises:
        ConfigError: another driver holds the lock.
        ResourceError: the disk or the store cannot be used.
    """
    if isinstance(run_dir, Path):
        with RunLock(run_dir):
            yield RunStorage(run_dir, run_dir)
        return
    key = hashlib.sha256(str(run_dir).encode()).hexdigest()[:16]
    local = cache_dir() / "runs" / key / run_dir.name
    with RunLock(run_dir):
        shutil.rmtree(local, ignore_errors=True)  # left behind by a driver that was killed
        storage = RunStorage(run_dir, local)
        try:
            storage.pull()
            yield storage
        finally:
            shutil.rmtree(local, ignore_errors=True)


@contextmanager
def local_small_files(run_dir: Location) -> Generator[Path]:
    """Yields a local directory with the driver's files except policies, until the block ends. Takes no lock.

    Raises:
        ResourceError: the store does not answer, or the disk is full.
    """
    if isinstance(run_dir, Path):
        yield run_dir
        return
    with tempfile.TemporaryDirectory(prefix="tangoflux-") as directory:
        local = Path(directory) / run_dir.name
        _download_small_files(run_dir, local)
        yield local


def _download_small_files(run_dir: ObjectStorePath, directory: Path) -> list[str]:
    names = [name for name in run_dir.sizes() if _is_small(name)]
    for name in names:
        (run_dir / name).fetch(directory / name)
    return names


def _is_small(name: str) -> bool:
    if name.endswith(f"/{FAILED_CHUNKS}"):
        return True
    if name.startswith("learner/"):
        return name.endswith("/result.json")
    return not name.startswith(NOT_COPIED) and not name.endswith(".tmp")


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size

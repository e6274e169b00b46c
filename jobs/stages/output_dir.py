"""A stage's output directory: one process at a time writes there, and the same command again resumes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from actors.options.schema import Options
from actors.options.yaml_files import load_file
from actors.storage.atomic import atomic_write
from actors.storage.run_lock import LOCK, RunLock
from actors.storage.shards import ShardWriter
from jobs.stages.run_dir import check_writable, differences
from tangoflux.cli import resumable
from tangoflux.errors import ConfigError, DataError

FLAG = "--output"

RESUME = "run the same command again to resume"


def check_output(options: Options, directory: Path, config_file: Path) -> None:
    """Checks that the directory is new or empty, or was started with the same options.

    Raises:
        ConfigError: it was not, which says what differs, or another process writes there.
    """
    check_writable(directory, FLAG)
    RunLock(directory).check_free()
    if config_file.is_file():
        different = differences(load_file(type(options), config_file), options)
        if different:
            raise ConfigError(
                f"{FLAG} {directory} was started with other options: {'; '.join(different)}; choose another {FLAG}"
            )
    else:
        check_new(directory)


def check_new(directory: Path) -> None:
    """Checks that the directory does not exist or is empty.

    Raises:
        ConfigError: it is not.
    """
    if directory.is_dir() and any(entry.name != LOCK for entry in directory.iterdir()):
        raise ConfigError(f"{FLAG} {directory} is not empty; choose another {FLAG}")


@contextmanager
def open_output(options: Options, directory: Path, config_file: Path) -> Generator[None]:
    """Locks the directory and writes the options to ``config_file``, after ``check_output``.

    What is interrupted in the block says how to resume.

    Raises:
        ConfigError: another process holds the lock; names it.
        ResourceError: the directory cannot be written.
    """
    with resumable(RESUME), RunLock(directory):
        with atomic_write(config_file) as temporary:
            temporary.write_text(options.to_yaml(), encoding="utf-8")
        yield


def find_shards(directory: Path, flag: str) -> ShardWriter:
    """The shards in the directory that an option names.

    Raises:
        DataError: there are none; suggests a directory below that has some.
    """
    shards = ShardWriter(directory)
    if shards.shards():
        return shards
    below = sorted(path for path in directory.glob("*") if path.is_dir() and ShardWriter(path).shards())
    hint = f"; did you mean {below[-1]}?" if below else ": is it what a run, jobs/rollout.py or jobs/score.py wrote?"
    raise DataError(f"{flag} {directory} holds no shards{hint}")

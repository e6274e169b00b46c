"""The directory that a stage alone writes: whoever runs the same command again goes on with it, one at a time."""

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
from tangoflux.errors import ConfigError, DataError

FLAG = "--output"


def check_output(options: Options, directory: Path, config_file: Path) -> None:
    """Whether the job may write there: into a new or empty directory, or one that it began with the same options.

    Raises:
        ConfigError: it may not; says why.
    """
    check_writable(directory, FLAG)
    if config_file.is_file():
        different = differences(load_file(type(options), config_file), options)
        if different:
            raise ConfigError(
                f"{FLAG} {directory} was begun with other options: {'; '.join(different)}; choose another {FLAG}"
            )
    else:
        check_new(directory)


def check_new(directory: Path) -> None:
    """Whether the directory is absent or empty.

    Raises:
        ConfigError: it is not.
    """
    if directory.is_dir() and any(entry.name != LOCK for entry in directory.iterdir()):
        raise ConfigError(f"{FLAG} {directory} is not empty; choose another {FLAG}")


@contextmanager
def open_output(options: Options, directory: Path, config_file: Path) -> Generator[None]:
    """Makes the directory with its options in ``config_file``, after ``check_output``; it is this process's then.

    Raises:
        ConfigError: another process works there; names it.
        ResourceError: the file system does not let it.
    """
    with RunLock(directory):
        with atomic_write(config_file) as temporary:
            temporary.write_text(options.to_yaml(), encoding="utf-8")
        yield


def find_shards(directory: Path, flag: str) -> ShardWriter:
    """The shards that an option names.

    Raises:
        DataError: there are none; names those in the directories below, which may be meant.
    """
    shards = ShardWriter(directory)
    if shards.shards():
        return shards
    below = sorted(place for place in directory.glob("*") if place.is_dir() and ShardWriter(place).shards())
    hint = f"; did you mean {below[-1]}?" if below else ": is it what a run, jobs/rollout.py or jobs/score.py wrote?"
    raise DataError(f"{flag} {directory} holds no shards{hint}")

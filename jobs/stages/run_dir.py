"""A run's directory: the checks before a run writes there, and its config.yaml."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from actors.options.schema import Model, option_fields, option_values
from actors.options.yaml_files import load_file
from actors.storage.object_store import Location, ObjectStorePath
from actors.storage.run_lock import LOCK, RunLock
from jobs.options.crpo import CONFIG_FILE, RunConfig, stored_config
from tangoflux.errors import ConfigError


def check_run_dir(config: RunConfig) -> None:
    """Checks that the run may write into its directory, without writing anything.

    Raises:
        ConfigError: the directory holds a run and ``resume`` is not set, holds something else or another config,
            another process writes there, or this process may not write to it or its parent.
    """
    directory = config.run_dir
    if isinstance(directory, Path):
        check_writable(directory, "--run-dir")
    RunLock(directory).check_free()
    if config.resume:
        _check_same_config(config)
    elif entries := _entries(directory):
        what = "holds a run" if CONFIG_FILE in entries else "is not empty"
        raise ConfigError(f"{directory} {what}; pass --resume to resume it or choose another --run-dir")


def open_run_dir(config: RunConfig, directory: Path) -> None:
    """Creates the run's directory on this machine and its config.yaml, after ``check_run_dir``.

    Raises:
        ConfigError: the directory cannot be written.
    """
    unfinished = directory / f".{CONFIG_FILE}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(config.to_yaml(leave_out=["resume"]), encoding="utf-8")
        unfinished.replace(directory / CONFIG_FILE)
    except OSError as error:
        raise ConfigError(f"--run-dir {directory} cannot be written: {error.strerror}") from None


def prompt_hashes(config: RunConfig) -> dict[str, str]:
    """SHA-256 of each file of prompts that the run uses, by its option."""
    files = {"--prompts": config.prompts, "--heldout-prompts": config.heldout_prompts}
    return {flag: hashlib.sha256(file.read_bytes()).hexdigest() for flag, file in files.items() if file}


def check_same_prompts(config: RunConfig, before: Mapping[str, str]) -> None:
    """Checks that the files of prompts are those with which the run began, as its rollouts would be of both.

    Args:
        before: their ``prompt_hashes``; empty if the run begins.

    Raises:
        ConfigError: one was edited.
    """
    for flag, found in prompt_hashes(config).items():
        if before.get(flag, found) != found:
            raise ConfigError(
                f"the file of {flag} was edited since the run began: restore it, or choose another --run-dir"
            )


def check_same_rewards(served: Mapping[str, str], before: Mapping[str, str]) -> None:
    """Checks that servers of rewards have the weights with which the run began, as its scores would be of both.

    Args:
        served: their checkpoints, by address.
        before: the same when the run began; empty if it begins.

    Raises:
        ConfigError: one has others.
    """
    for address, found in served.items():
        if before.get(address, found) != found:
            raise ConfigError(
                f"{address} has the weights {found!r} now, and had {before[address]!r} when the run began: serve these "
                "again, or choose another --run-dir"
            )


def check_writable(directory: Path, flag: str) -> None:
    """Checks that this process may write to the directory, or to its nearest parent that exists.

    Raises:
        ConfigError: it may not; names ``flag``, the option that the directory is from.
    """
    _check_directory(_nearest(directory, flag), directory, flag)


def check_writable_file(file: Path, flag: str) -> None:
    """Checks that this process may write the file, which may exist.

    Raises:
        ConfigError: it may not, or a directory has this name; see ``check_writable``.
    """
    existing = _nearest(file, flag)
    if existing == file.absolute():
        if existing.is_dir():
            raise ConfigError(f"{flag} {file} is a directory; name a file in it")
        existing = existing.parent
    _check_directory(existing, file, flag)


def _nearest(path: Path, flag: str) -> Path:
    """The path, or its nearest parent that exists."""
    existing = path.absolute()
    try:
        while not existing.exists():
            if existing.is_symlink():
                raise ConfigError(
                    f"{flag} {path} cannot be used: the symbolic link {existing} leads nowhere "
                    f"({os.readlink(existing)}); make what it names, or remove the link"
                )
            existing = existing.parent
    except OSError as error:
        raise ConfigError(f"{flag} {path} cannot be used: {error.strerror}") from None
    return existing


def _check_directory(existing: Path, path: Path, flag: str) -> None:
    if not existing.is_dir():
        raise ConfigError(f"{flag} {path} cannot be used: {existing} is not a directory")
    if not os.access(existing, os.R_OK | os.X_OK):
        raise ConfigError(f"{flag} {path} cannot be used: no permission to read {existing}")
    try:
        # Permissions do not tell of read-only file systems, quotas, and what a server allows.
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise ConfigError(
            f"{flag} {path} cannot be used: nothing can be written in {existing} ({error.strerror})"
        ) from None


def differences(stored: Model, wanted: Model) -> list[str]:
    """Describes the options that differ and may not."""
    there, now = option_values(stored), option_values(wanted)
    return [
        f"{option.key} is {there[option.key]!r} there and {now[option.key]!r} now"
        for option in option_fields(type(wanted))
        if there[option.key] != now[option.key] and not option.extra("may_change")
    ]


def _entries(directory: Location) -> set[str]:
    """The names in the directory, except those that a crash in ``open_run_dir`` leaves behind."""
    if isinstance(directory, ObjectStorePath):
        names = {name.partition("/")[0] for name in directory.sizes()}
    else:
        names = set(os.listdir(directory)) if directory.exists() else set[str]()
    return names - {f".{CONFIG_FILE}", LOCK}


def _check_same_config(config: RunConfig) -> None:
    file = stored_config(config.run_dir)
    if file is None:
        raise ConfigError(f"--resume: {config.run_dir} holds no run (no {CONFIG_FILE}); omit --resume to start one")
    stored = load_file(RunConfig, file)
    different = differences(stored, config)
    if different:
        raise ConfigError(f"--resume: {config.run_dir} holds another config: {'; '.join(different)}")
    if config.iterations < stored.iterations:
        raise ConfigError(f"--iterations {config.iterations} is less than the {stored.iterations} of {config.run_dir}")

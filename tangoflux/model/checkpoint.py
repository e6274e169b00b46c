"""Weights and their configs in safetensors and JSON files, read with errors that name the file and the tensors."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of the HTTP library that the hub's uses
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tangoflux.errors import CheckpointError

HUB_ERRORS = (HfHubHTTPError, HTTPError, HFValidationError, OSError, RuntimeError)
"""What a download from the hub raises: HTTP errors, broken connections, invalid names, disk errors, transfer errors."""


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``.

    Raises:
        CheckpointError: the file is missing or not a JSON object.
    """
    try:
        values: object = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: is {file.parent} a model directory?") from None
    except PermissionError:
        raise no_permission(file) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} contains {type(values).__name__}, expected a JSON object")
    return values


def no_permission(file: Path) -> CheckpointError:
    """The error of a file that this user may not read."""
    return CheckpointError(f"{file} cannot be read: no permission; let this user read it and enter {file.parent}")


def read_weights(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: the file is missing, unreadable, truncated or not a safetensors file.
    """
    with _readable(file):
        return load_file(file)


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of a safetensors file, without the tensors.

    Raises:
        CheckpointError: see ``read_weights``.
    """
    with _readable(file), safe_open(file, framework="pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def write_weights(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Writes a safetensors file with the permissions of any new file; safetensors' own are the user's alone.

    Raises:
        OSError: the disk is full or the file cannot be written.
    """
    file.touch()
    mode = file.stat().st_mode
    try:
        save_file(dict(tensors), file)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(file)) from error
    file.chmod(mode)


def load_weights(module: nn.Module, file: Path, optional: Collection[str] = ()) -> None:
    """Fills ``module`` with float32 copies of the tensors of ``file``.

    Args:
        optional: keys that may be missing from the file (tied weights).

    Raises:
        CheckpointError: keys are missing or unexpected, or shapes differ; the message names them.
    """
    fill(module, read_weights(file), str(file), optional)


def fill(module: nn.Module, weights: dict[str, Tensor], source: str, optional: Collection[str] = ()) -> None:
    """As ``load_weights``, from tensors in memory; ``source`` is their name in errors."""
    expected = module.state_dict()
    missing = sorted(set(expected) - set(weights) - set(optional))
    unexpected = sorted(set(weights) - set(expected))
    shapes = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in sorted(set(expected) & set(weights))
        if weights[key].shape != expected[key].shape
    ]
    problems = [
        f"{title} {_some(keys)}"
        for title, keys in (("missing", missing), ("unexpected", unexpected), ("wrong shape:", shapes))
        if keys
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit the model: {'; '.join(problems)}")
    module.load_state_dict({key: value.to(torch.float32) for key, value in weights.items()}, strict=False)


def _some(names: list[str], limit: int = 5) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


@contextmanager
def _readable(file: Path) -> Generator[None]:
    """Converts the errors of reading a safetensors file into a CheckpointError."""
    try:
        file.open("rb").close()  # safetensors calls files missing that it may not read
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: is {file.parent} a model directory?") from None
    except PermissionError:
        raise no_permission(file) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is truncated or not a safetensors file ({error}); download or build it again"
        ) from None

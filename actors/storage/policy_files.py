"""The files of a policy's version: the published layout, or an adapter next to its base."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from tangoflux.errors import CheckpointError
from tangoflux.model.adapter_files import base_directory, with_adapter, write_adapter
from tangoflux.model.checkpoint import read_shapes, read_weights, write_weights
from tangoflux.model.layout import TIED_KEY
from tangoflux.model.lora import LoraSettings, check_trained, merge

WEIGHTS = "tangoflux.safetensors"
CONFIGS = ("config.json", "vae_config.json")
FROZEN = (*CONFIGS, "vae.safetensors", "text_encoder")
"""Files and directories of the published layout that alignment does not change."""


def write_version(
    target: Path,
    siblings: Path | None,
    source: Path,
    weights: Mapping[str, Tensor] | None,
    lora: LoraSettings | None,
) -> None:
    """Writes the files of a version into the empty directory ``target``; see ``PolicyStore.publish``.

    Args:
        siblings: the directory of the versions among which ``target`` will be, if there are any. Files that do not
            change are hard-linked where ``source`` is among them, else copied.
        source, weights, lora: as for ``PolicyStore.publish``.

    Raises:
        CheckpointError: ``source`` is not a model directory, or ``weights`` do not fit it.
    """
    base = base_directory(source)
    for name in ("config.json", "vae.safetensors", WEIGHTS):
        if not (base / name).is_file():
            raise CheckpointError(f"{base / name} is missing: is {base} a model directory?")
    shared = siblings is not None and base.resolve().parent == siblings.resolve()
    if weights and lora and shared:
        check_trained(read_shapes(base / WEIGHTS), weights, lora, "what was trained")
        for name in CONFIGS:
            _take(base / name, target / name, link=True)
        write_adapter(target, f"../{base.resolve().name}", lora, weights)
        return
    changed = _new_weights(source, weights, lora)
    for name in FROZEN if changed else (*FROZEN, WEIGHTS):
        _take(base / name, target / name, link=shared)
    if changed:
        write_weights(changed, target / WEIGHTS)


def read_state(directory: Path) -> dict[str, Tensor]:
    """The tensors of a version that alignment trains, with its adapter merged in."""
    with safe_open(base_directory(directory) / WEIGHTS, framework="pt") as file:
        base = {key: file.get_tensor(key) for key in file.keys() if is_trained(key)}  # noqa: SIM118
    return with_adapter(base, directory)


def is_trained(key: str) -> bool:
    """Whether alignment changes the tensor of this name: all but the text encoder's."""
    return not key.startswith("text_encoder.")


def _new_weights(
    source: Path, weights: Mapping[str, Tensor] | None, lora: LoraSettings | None
) -> dict[str, Tensor] | None:
    """All tensors of ``source`` with ``weights`` in them; None if its own file already holds exactly these."""
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
        target.mkdir()  # not by copytree, which copies permissions
        for part in source.iterdir():
            _take(part, target / part.name, link)
    elif source.exists():
        (_link if link else shutil.copyfile)(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)

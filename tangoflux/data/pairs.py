"""Users' own preference pairs: a manifest of prompts, each with a chosen and a rejected audio or latents file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tangoflux.data.audio import audio_duration_s
from tangoflux.data.prompts import Prompt, checked_prompt
from tangoflux.data.records import build_table
from tangoflux.data.text_rows import has_surrogate, parse_row, raise_problems, shown, text_lines
from tangoflux.errors import DataError
from tangoflux.model.autoencoder import AutoencoderConfig
from tangoflux.model.layout import num_frames
from tangoflux.model.policy import PolicyConfig

ROW_KEYS = ("prompt", "chosen", "rejected", "duration_s", "id")
EXAMPLE = '{"prompt": "a dog barks", "chosen": "good.wav", "rejected": "bad.wav"}'

SOURCE = "manifest"
"""The ``reward_model`` of pairs that were not ranked by one."""


@dataclass(frozen=True)
class RatedPair:
    """A line of a manifest.

    Attributes:
        prompt: its ``duration_s`` is the part of both files that is used.
        chosen, rejected: audio files, or latents (``.npy``).
        num_frames: frames of both latents.
        origin: ``file:line``, for errors.
    """

    prompt: Prompt
    chosen: Path
    rejected: Path
    num_frames: int
    origin: str


def load_pairs(file: Path, policy: PolicyConfig, codec: AutoencoderConfig) -> list[RatedPair]:
    """Reads a manifest and checks every file that it names; audio is not decoded yet.

    A line is a JSON object with ``prompt``, ``chosen`` and ``rejected``, and optionally ``duration_s`` (default: the
    length of the chosen audio, up to the policy's maximum) and ``id`` (several pairs may share one). Paths are relative
    to the manifest. Latents are numpy arrays (frames, channels) of the policy's size.

    Args:
        policy, codec: configs of the policy that will be trained.

    Returns:
        at least one pair, in the file's order.

    Raises:
        DataError: the file cannot be read or is empty, or lines are invalid; names each as ``file:line`` with the
            reason.
    """
    pairs: list[RatedPair] = []
    problems: list[str] = []
    for number, line in text_lines(file, "manifest of pairs"):
        try:
            pairs.append(_pair(line, file, number, policy, codec))
        except DataError as error:
            problems.append(str(error))
    raise_problems(problems)
    if not pairs:
        raise DataError(f"{file} contains no pairs; write one per line, like {EXAMPLE}")
    return pairs


def is_latents_file(file: Path) -> bool:
    """Whether a file holds latents; any other counts as audio."""
    return file.suffix.lower() == ".npy"


def read_latents(file: Path) -> NDArray[Any]:
    """An array (frames, channels) of finite numbers.

    Raises:
        DataError: the file has other content.
    """
    try:
        array: Any = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} cannot be read as a numpy array: {error}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        kind = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise DataError(f"{file} contains {kind}, expected latents: an array (frames, channels) of floats")
    if not np.isfinite(array).all():
        raise DataError(f"{file} contains numbers that are not finite")
    return array


def pair_table(
    pairs: Sequence[RatedPair],
    chosen: Sequence[NDArray[np.float32]],
    rejected: Sequence[NDArray[np.float32]],
    schema: pa.Schema,
) -> pa.Table:
    """Rows of ``preference_schema``; columns that only sampled pairs have are null.

    Args:
        chosen, rejected: the latents of each pair.
    """
    count = len(pairs)
    columns: dict[str, Sequence[Any]] = {name: [None] * count for name in schema.names}
    columns |= {
        "iteration": [1] * count,
        "prompt_id": [pair.prompt.id for pair in pairs],
        "prompt": [pair.prompt.text for pair in pairs],
        "duration_s": [pair.prompt.duration_s for pair in pairs],
        "num_frames": [pair.num_frames for pair in pairs],
        "reward_model": [SOURCE] * count,
        "chosen_latents": chosen,
        "rejected_latents": rejected,
        "created_at": [datetime.now(UTC)] * count,
    }
    return build_table(columns, schema)


def _pair(line: str, manifest: Path, number: int, policy: PolicyConfig, codec: AutoencoderConfig) -> RatedPair:
    origin = f"{manifest}:{number}"
    row = parse_row(line, origin, ROW_KEYS, EXAMPLE)
    chosen, rejected = (_file(row, side, manifest.parent, origin) for side in ("chosen", "rejected"))
    if chosen.resolve() == rejected.resolve():
        raise DataError(f"{origin}: chosen and rejected are the same file")
    shapes = [_shape(file, origin) for file in (chosen, rejected)]
    default_s = min(_seconds(shapes[0], codec), policy.max_duration)
    prompt = checked_prompt(row, f"p{number:06d}", default_s, policy.max_duration, origin)
    frames = num_frames(policy, codec, prompt.duration_s)
    for problem in _wrong_latents(zip((chosen, rejected), shapes, strict=True), (frames, policy.in_channels)):
        raise DataError(f"{origin}: {problem} for {prompt.duration_s:g} s")
    return RatedPair(prompt, chosen, rejected, frames, origin)


def _file(row: dict[str, Any], side: str, folder: Path, origin: str) -> Path:
    if side not in row:
        raise DataError(f"{origin}: no {side!r} among the keys {', '.join(map(repr, row)) or '(none)'}")
    name = row[side]
    if not isinstance(name, str) or not name or "\0" in name or has_surrogate(name):
        raise DataError(f"{origin}: {side} is {shown(name)}; it must be the path of an audio or .npy file")
    return folder / name


def _shape(file: Path, origin: str) -> tuple[int, int] | float:
    """The shape of latents, or the seconds of audio."""
    try:
        if not is_latents_file(file):
            return audio_duration_s(file)
        latents = read_latents(file)
    except DataError as error:
        raise DataError(f"{origin}: {error}") from None
    return len(latents), latents.shape[1]


def _seconds(shape: tuple[int, int] | float, codec: AutoencoderConfig) -> float:
    return shape[0] * codec.hop / codec.sampling_rate if isinstance(shape, tuple) else shape


def _wrong_latents(files: Iterator[tuple[Path, tuple[int, int] | float]], expected: tuple[int, int]) -> Iterator[str]:
    for file, shape in files:
        if isinstance(shape, tuple) and shape != expected:
            yield f"{file} contains latents {shape}, expected {expected}: the policy's (frames, channels)"

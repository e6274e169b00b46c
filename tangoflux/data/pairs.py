"""Preference pairs that users bring: a manifest of prompts, each with a chosen and a rejected audio or latents file."""

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
from tangoflux.data.text_rows import parse_row, shown, text_lines
from tangoflux.errors import DataError
from tangoflux.model.autoencoder import AutoencoderConfig
from tangoflux.model.layout import num_frames
from tangoflux.model.policy import PolicyConfig

ROW_KEYS = ("prompt", "chosen", "rejected", "duration_s", "id")
EXAMPLE = '{"prompt": "a dog barks", "chosen": "good.wav", "rejected": "bad.wav"}'

MAX_PROBLEMS = 20
"""So many bad lines of a manifest are named; of the rest, how many there are."""

SOURCE = "manifest"
"""The ``reward_model`` of pairs that no reward model has ranked."""


@dataclass(frozen=True)
class RatedPair:
    """A line of a manifest.

    Attributes:
        prompt: whose ``duration_s`` is what is heard of either file.
        chosen, rejected: files, each audio or latents (``.npy``).
        num_frames: of the latents of both.
        place: ``file:line``, for errors.
    """

    prompt: Prompt
    chosen: Path
    rejected: Path
    num_frames: int
    place: str


def load_pairs(file: Path, policy: PolicyConfig, codec: AutoencoderConfig) -> list[RatedPair]:
    """Reads a manifest and looks at every file that it names; audio is not decoded yet.

    A line is a JSON object with ``prompt``, ``chosen`` and ``rejected``, and where wanted ``duration_s`` (default: how
    long the chosen one is, at most what the policy can make) and ``id`` (several pairs may have the same). Paths are
    relative to the manifest. Latents are numpy arrays (frames, channels) of the policy's own size.

    Args:
        policy, codec: of the policy that will be trained.

    Returns:
        at least one pair, in the file's order.

    Raises:
        DataError: the file cannot be read or is empty, or lines are wrong; names each as ``file:line`` with the reason.
    """
    pairs: list[RatedPair] = []
    problems: list[str] = []
    for number, line in text_lines(file, "manifest of pairs"):
        try:
            pairs.append(_pair(line, file, number, policy, codec))
        except DataError as error:
            problems.append(str(error))
    if problems:
        more = f"; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        raise DataError("; ".join(problems[:MAX_PROBLEMS]) + more)
    if not pairs:
        raise DataError(f"{file} holds no pairs; write one a line, like {EXAMPLE}")
    return pairs


def is_latents_file(file: Path) -> bool:
    """Whether a file is taken for latents; any other is taken for audio."""
    return file.suffix.lower() == ".npy"


def read_latents(file: Path) -> NDArray[Any]:
    """An array (frames, channels) of finite numbers.

    Raises:
        DataError: the file holds something else.
    """
    try:
        array: Any = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} cannot be read as a numpy array: {error}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        kind = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise DataError(f"{file} holds {kind}, expected latents: an array (frames, channels) of floats")
    if not np.isfinite(array).all():
        raise DataError(f"{file} holds numbers that are not finite")
    return array


def pair_table(
    pairs: Sequence[RatedPair],
    chosen: Sequence[NDArray[np.float32]],
    rejected: Sequence[NDArray[np.float32]],
    schema: pa.Schema,
) -> pa.Table:
    """Rows of ``preference_schema``; what only sampled pairs have is null.

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
    place = f"{manifest}:{number}"
    row = parse_row(line, place, ROW_KEYS, EXAMPLE)
    chosen, rejected = (_file(row, side, manifest.parent, place) for side in ("chosen", "rejected"))
    if chosen.resolve() == rejected.resolve():
        raise DataError(f"{place}: chosen and rejected are the same file")
    shapes = [_shape(file, place) for file in (chosen, rejected)]
    default_s = min(_seconds(shapes[0], codec), policy.max_duration)
    prompt = checked_prompt(row, f"p{number:06d}", default_s, policy.max_duration, place)
    frames = num_frames(policy, codec, prompt.duration_s)
    for problem in _wrong_latents(zip((chosen, rejected), shapes, strict=True), (frames, policy.in_channels)):
        raise DataError(f"{place}: {problem} for {prompt.duration_s:g} s")
    return RatedPair(prompt, chosen, rejected, frames, place)


def _file(row: dict[str, Any], side: str, folder: Path, place: str) -> Path:
    if side not in row:
        raise DataError(f"{place}: no {side!r} among the keys {', '.join(map(repr, row)) or '(none)'}")
    name = row[side]
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{place}: {side} is {shown(name)}; it must be the path of an audio or .npy file")
    return folder / name


def _shape(file: Path, place: str) -> tuple[int, int] | float:
    """The shape of latents, or the seconds of audio."""
    try:
        if not is_latents_file(file):
            return audio_duration_s(file)
        latents = read_latents(file)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    return len(latents), latents.shape[1]


def _seconds(shape: tuple[int, int] | float, codec: AutoencoderConfig) -> float:
    return shape[0] * codec.hop / codec.sampling_rate if isinstance(shape, tuple) else shape


def _wrong_latents(files: Iterator[tuple[Path, tuple[int, int] | float]], expected: tuple[int, int]) -> Iterator[str]:
    for file, shape in files:
        if isinstance(shape, tuple) and shape != expected:
            yield f"{file} holds latents {shape}, expected {expected}: the policy's (frames, channels)"

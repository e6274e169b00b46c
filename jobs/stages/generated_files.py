"""What the audio files in a folder of ``tangoflux generate --prompts`` were made from.

``generated.jsonl`` has a line for each file: its name, its prompt, and all that decides how it sounds. The same command
again keeps files that would be the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from actors.storage.json_lines import JsonLines, read_json_lines
from jobs.options.generate import GenerateOptions
from tangoflux.data.prompts import Prompt
from tangoflux.data.text_rows import shown
from tangoflux.errors import ConfigError
from tangoflux.model.adapter_files import base_directory
from tangoflux.model.layout import find_directory
from tangoflux.rewards.embedding import file_sha256

RECORD = "generated.jsonl"


def settings_of(prompt: Prompt, options: GenerateOptions) -> dict[str, Any]:
    """All that decides how the audio of a prompt sounds, but for the kind of processor and the reward's weights."""
    names = ("seed", "num_steps", "guidance_scale", "negative_prompt", "precision", "best_of")
    return {
        "prompt": prompt.text,
        "duration_s": prompt.duration_s,
        "policy_sha256": weights_sha256(options.policy),
        **{name: getattr(options, name) for name in names},
        "reward": options.reward if options.best_of else None,
        "reward_combination": options.reward_combination if options.best_of else None,
    }


@cache
def weights_sha256(policy: str) -> str:
    """Of a policy's weights, as a directory may get new ones."""
    directory = find_directory(policy)
    files = {*directory.glob("*.safetensors"), *base_directory(directory).glob("*.safetensors")}
    return hashlib.sha256("".join(map(file_sha256, sorted(files))).encode()).hexdigest()


def check_existing(folder: Path, wanted: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Checks that the files of the folder that exist are those that would be made.

    Args:
        wanted: files with their ``settings_of``.

    Raises:
        ConfigError: they are not; says what differs.
    """
    rows = {str(row.get("file")): row for row in read_json_lines(folder / RECORD)}
    existing = ((file, settings) for file, settings in wanted if file.exists())
    problems = list(filter(None, (_problem(file, settings, rows.get(file.name)) for file, settings in existing)))
    if problems:
        more = f" (and so {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(
            f"{problems[0]}{more}; choose another folder, pass --overwrite to replace all files, or delete those that "
            "should be made again"
        )


def record(log: JsonLines, file: Path, settings: dict[str, Any]) -> None:
    """Says what the file is made from, before it is written: what is interrupted in between is made again.

    Raises:
        ResourceError: the folder cannot be written.
    """
    file.unlink(missing_ok=True)  # made from something else
    log.append({"file": file.name, **settings})


def _problem(file: Path, settings: dict[str, Any], stored: dict[str, Any] | None) -> str | None:
    if stored is None:
        return f"{file} exists, and {RECORD} does not say what it was made from"
    different = [
        f"{name} was {shown(stored.get(name))} and is {shown(value)} now"
        for name, value in settings.items()
        if stored.get(name) != value
    ]
    return f"{file} was made from something else: {', '.join(different)}" if different else None

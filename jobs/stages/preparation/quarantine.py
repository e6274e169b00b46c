"""The file of clips that a preparation could not use: one JSON object per line, with the reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.storage.atomic import atomic_write
from actors.storage.json_lines import JsonLines, read_json_lines
from tangoflux.errors import DataError

MIN_CHECKED = 100
"""The share is first checked after this many clips, or after all of them if there are fewer."""


class Quarantine:
    """Rows of ``id``, ``source``, ``reason`` (a word or two), ``detail``, ``row`` of the manifest and ``part``."""

    def __init__(self, file: Path, parts: Collection[int]) -> None:
        """Reads the rows of the shards ``parts`` and drops others, whose shards a crash prevented."""
        self.file = file
        self.rows = [row for row in read_json_lines(file) if row["part"] in parts]
        self._rewrite()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows, before their shard is written.

        Raises:
            ResourceError: the disk is full.
        """
        lines = JsonLines(self.file)
        self.rows += [lines.append(row) for row in rows]

    def check(self, done: int, total: int, max_share: float) -> None:
        """Stops a preparation if too many of its clips are unusable.

        Args:
            done: clips processed so far, of ``total``.

        Raises:
            DataError: more than ``max_share`` of them are quarantined.
        """
        if done < min(MIN_CHECKED, total) or len(self.rows) <= max_share * done:
            return
        reason, count = self.reasons.most_common(1)[0]
        raise DataError(
            f"{len(self.rows)} of {done} clips are quarantined, more than --max-quarantined-share {max_share:g}; most "
            f"often ({count}): {reason}, see {self.file}; fix the manifest or its files and choose another --output, "
            "or raise the share"
        )

    @property
    def reasons(self) -> Counter[str]:
        """Number of clips by reason."""
        return Counter(row["reason"] for row in self.rows)

    def sort(self) -> None:
        """Sorts the rows into the manifest's order."""
        self.rows.sort(key=lambda row: row["row"])
        self._rewrite()

    def _rewrite(self) -> None:
        with atomic_write(self.file) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")

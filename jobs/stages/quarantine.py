"""The clips that a preparation could not use, each with its reason: a file of one JSON object a line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.storage.atomic import atomic_write
from actors.storage.json_lines import JsonLines, read_json_lines
from tangoflux.errors import DataError

DECIDING = 100
"""Of so many clips the share is judged first, or of all where there are fewer."""


class Quarantine:
    """Rows of ``id``, ``source``, ``reason`` (a word or two), ``detail``, ``row`` of the manifest and ``part``."""

    def __init__(self, file: Path, parts: Collection[int]) -> None:
        """Takes what is there of the shards ``parts``: of others, a crash left the rows without the shard."""
        self.file = file
        self.rows = [row for row in read_json_lines(file) if row["part"] in parts]
        self._rewrite()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Enters rows, before their shard is written.

        Raises:
            ResourceError: the disk is full.
        """
        lines = JsonLines(self.file)
        self.rows += [lines.append(row) for row in rows]

    def check(self, done: int, total: int, max_share: float) -> None:
        """Stops a preparation whose input is mostly bad.

        Args:
            done: clips that were looked at, of ``total``.

        Raises:
            DataError: more than ``max_share`` of them are here.
        """
        if done < min(DECIDING, total) or len(self.rows) <= max_share * done:
            return
        reason, count = self.reasons.most_common(1)[0]
        raise DataError(
            f"{len(self.rows)} of {done} clips are quarantined, more than --max-quarantined-share {max_share:g}; most "
            f"often ({count}): {reason}, see {self.file}; mend the manifest or its files and choose another --output, "
            "or raise the share"
        )

    @property
    def reasons(self) -> Counter[str]:
        """How many clips have each reason."""
        return Counter(row["reason"] for row in self.rows)

    def sort(self) -> None:
        """Brings the rows into the manifest's order."""
        self.rows.sort(key=lambda row: row["row"])
        self._rewrite()

    def _rewrite(self) -> None:
        with atomic_write(self.file) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")

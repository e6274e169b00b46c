"""The size of a pool: a fixed number of workers, or a range that follows the work."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class PoolSize:
    """Bounds of a pool's number of workers, both at least 1."""

    least: int
    most: int

    @classmethod
    def parse(cls, value: object) -> PoolSize:
        """Parses a number, ``"4"`` or ``"1:16"``.

        Raises:
            ValueError: the value is none of these.
        """
        if isinstance(value, PoolSize):
            return value
        match = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", str(value))
        size = cls(int(match[1]), int(match[2] or match[1])) if match else cls(0, 0)
        if not 1 <= size.least <= size.most:
            raise ValueError(f"{value} is not {ALLOWED}")
        return size

    def nearest(self, number: int) -> int:
        """Clamps a number to the range."""
        return min(max(number, self.least), self.most)

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}:{self.most}"


ALLOWED = "a number of at least 1, or a range such as 1:16"

"""What the documents contain: pages, fenced blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = (REPOSITORY / "README.md", REPOSITORY / "ARCHITECTURE.md", *sorted((REPOSITORY / "docs").glob("*.md")))

BLOCK = re.compile(
    r"(?:<!-- needs: (?P<needs>[a-z, ]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE
)
LOOP_KEYWORDS = ("for", "do", "done")
OPERATORS = ("&&", "||", ";", "|")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, first line, language and text, and what a marker above it says that it needs."""

    page: Path
    line: int
    language: str
    text: str
    needs: frozenset[str]


@dataclass(frozen=True)
class Command:
    """A command of a ``bash`` block, without comments and without the variables set before it."""

    block: Block
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.block.page.name}: {shlex.join(self.words)}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        needs = frozenset((found["needs"] or "").replace(",", " ").split())
        line = text.count("\n", 0, found.start("language")) + 1
        yield Block(page, line, found["language"], found["text"], needs)


def commands(page: Path) -> Iterator[Command]:
    """The commands of the page's ``bash`` blocks, in order."""
    for block in blocks(page):
        if block.language == "bash":
            for line in block.text.replace("\\\n", " ").splitlines():
                for words in _split(shlex.split(line, comments=True)):
                    yield Command(block, words)


def _split(words: list[str]) -> Iterator[tuple[str, ...]]:
    """A line's commands: split at operators, without loop keywords and leading ``NAME=value``."""
    command: list[str] = []
    for word in [*words, ";"]:
        if word not in OPERATORS:
            command.append(word)
            continue
        while command and ("=" in command[0].split("/")[0] and not command[0].startswith("-")):
            command.pop(0)
        if command and command[0] not in LOOP_KEYWORDS:
            yield tuple(command)
        command = []

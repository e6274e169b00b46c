"""A caption to yes/no questions about audio that should fit it.

The splitter knows English words for order, overlap, number and absence, and no grammar. What it does not know stays
within a piece that is asked about as a whole, in the caption's own words. Its limits: words such as "it" are not
resolved, "with a deep voice" becomes a sound of its own, and captions in other languages are one piece.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Relation = Literal["then", "after", "together", "and", "absent"]

MAX_EVENTS = 8
"""Of longer captions the rest stays in the last piece."""


MAX_CHECKS = 30
"""Of a caption: as many as ``MAX_EVENTS`` can have."""


@dataclass(frozen=True)
class Check:
    """A question, and whether yes is the answer for audio that fits the caption."""

    question: str
    yes: bool = True


@dataclass(frozen=True)
class _Piece:
    """A part of a caption, how it relates to the one before it, and how often it is heard, where that is said."""

    text: str
    relation: Relation
    count: int | None = None


_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: number for number, word in enumerate(_WORDS, start=2)}
_NUMBER = "|".join(NUMBERS)
_TIMES = re.compile(rf",?\s+(?:(once|twice|thrice)|({_NUMBER}|\d{{1,2}}) times)\b(?! (?:as|per|a))", re.IGNORECASE)
_LEADING = re.compile(rf"({_NUMBER}) (?=\w+s\b|\w+ \w+s\b)", re.IGNORECASE)
_ONCE = {"once": 1, "twice": 2, "thrice": 3}

_CONNECTORS: dict[Relation, str] = {
    "absent": r",? (?:without(?: any)?|but no|with no) ",
    "then": r",? (?:and )?(?:then|finally|afterwards|later on|followed by|before) ",
    "after": r",? after ",
    "together": r",? (?:while|whilst|during|together with|simultaneously with|at the same time as) "
    r"|(?<! such)(?<! same)(?<! well)(?<! known) as (?!if\b|though\b|well\b|soon\b|a result)",
    "and": r",? (?:and|as well as|along with|accompanied by|with) |[,;] (?:and )?(?!such|like|which|who|where)",
}
_CONNECTOR = re.compile("|".join(f"(?P<{name}>{text})" for name, text in _CONNECTORS.items()), re.IGNORECASE)
_FIRST = re.compile(r"(?:first|at first|initially),? ", re.IGNORECASE)
_SUBORDINATE = re.compile(r"(after|before|while|as|when) ([^,]+), (?:then )?", re.IGNORECASE)
_AT_ONCE = re.compile(r",? (?:all )?(?:at the same time|simultaneously|at once)$", re.IGNORECASE)
_SOUND_OF = re.compile(r"(?:the )?sounds? of ", re.IGNORECASE)

_ARTICLE = re.compile(r"(?:an?|the|some) ", re.IGNORECASE)

_ALONE = {"rain", "wind", "music", "thunder", "water", "traffic", "speech", "laughter", "applause", "static", "noise"}
"""Words that are a sound by themselves, besides plurals and words in -ing."""


def caption_checks(caption: str) -> list[Check]:
    """The checks of a caption: each sound is there, then counts, order and overlap, and nothing else is there.

    Partly right audio passes some of them, so that their mean prefers it to audio that is all wrong.
    """
    text = " ".join(caption.replace('"', "'").split())
    pieces = _pieces(text.rstrip(".!") or text)
    present = [piece for piece in pieces if piece.relation != "absent"]
    return [
        *(Check(f'Is this sound in the audio: "{piece.text}"?', piece.relation != "absent") for piece in pieces),
        *(
            Check(f'Is the sound "{piece.text}" heard exactly {_times(piece.count)}?')
            for piece in present
            if piece.count is not None
        ),
        *(check for first, second in pairwise(present) for check in _relation(first, second)),
        Check(f"Apart from {_listed(present)}, is there any other sound or background noise?", False),
    ]


def _pieces(caption: str) -> list[_Piece]:
    caption, together = _AT_ONCE.subn("", _in_order(_FIRST.sub("", caption, count=1)))
    texts, relations = _split(caption)
    if together:
        relations: list[Relation] = ["together" if relation == "and" else relation for relation in relations]
    pieces = [_piece(texts[0], "and"), *map(_piece, texts[1:], relations)]
    return [piece for piece in pieces if piece.text] or [_Piece(caption, "and")]


def _in_order(caption: str) -> str:
    """``after A, B`` becomes ``A then B``, ``before A, B`` becomes ``B then A``, and ``while A, B`` ``A while B``."""
    found = _SUBORDINATE.match(caption)
    if not found:
        return caption
    word, clause, rest = found[1].lower(), found[2], caption[found.end() :]
    if word == "before":
        return f"{rest} then {clause}"
    return f"{clause} {'then' if word == 'after' else 'while'} {rest}"


def _split(caption: str) -> tuple[list[str], list[Relation]]:
    texts, relations, start = list[str](), list[Relation](), 0
    for found in _CONNECTOR.finditer(caption):
        relation: Relation = next(name for name in _CONNECTORS if found[name] is not None)
        text = caption[start : found.start()]
        if len(texts) + 1 < MAX_EVENTS and (relation != "and" or _is_sound(text, caption[found.end() :])):
            texts.append(text)
            relations.append(relation)
            start = found.end()
    return [*texts, caption[start:]], relations


def _is_sound(text: str, rest: str) -> bool:
    """Whether "and" after this text joins sounds and not, as in "a loud and clear bell", properties of one."""
    words = _ARTICLE.sub("", text, count=1).split()
    if len(words) != 1:
        return bool(words)
    return words[0].lower() in _ALONE or words[0].endswith(("s", "ing")) or bool(_ARTICLE.match(rest))


def _piece(text: str, relation: Relation) -> _Piece:
    text = _SOUND_OF.sub("", text.strip(" ,;"), count=1)
    if found := _TIMES.search(text):
        count = _ONCE.get((found[1] or "").lower()) or _number(found[2])
        return _Piece(text[: found.start()] + text[found.end() :], relation, count)
    if found := _LEADING.match(text):
        return _Piece(text[found.end() :], relation, NUMBERS[found[1].lower()])
    return _Piece(text, relation)


def _number(text: str) -> int:
    return NUMBERS.get(text.lower()) or int(text)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _relation(first: _Piece, second: _Piece) -> list[Check]:
    match second.relation:
        case "then":
            return [Check(f'Does "{first.text}" begin before "{second.text}"?')]
        case "after":
            return [Check(f'Does "{second.text}" begin before "{first.text}"?')]
        case "together":
            return [Check(f'Are "{first.text}" and "{second.text}" heard at the same time?')]
        case _:
            return []


def _listed(pieces: list[_Piece]) -> str:
    return ", ".join(f'"{piece.text}"' for piece in pieces) or "silence"

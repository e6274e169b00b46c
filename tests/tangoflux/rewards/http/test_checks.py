"""Captions to yes/no questions."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tangoflux.rewards.http.checks import MAX_CHECKS, MAX_EVENTS, Check, caption_checks
from tangoflux.soundworld.bank import bank
from tangoflux.soundworld.captions import parse


def asked(caption: str, beginning: str) -> list[str]:
    """The sounds in the questions that begin like this, a question each."""
    questions = [check.question for check in caption_checks(caption) if check.question.startswith(beginning)]
    return [" | ".join(re.findall('"([^"]*)"', question)) for question in questions]


@pytest.mark.parametrize(
    ("caption", "sounds"),
    [
        ("A man speaks as birds chirp in the background.", ["A man speaks", "birds chirp in the background"]),
        ("birds, wind, and rain", ["birds", "wind", "rain"]),
        ("A siren and a bell ring at the same time", ["A siren", "a bell ring"]),
        ("A loud and clear bell rings", ["A loud and clear bell rings"]),
        ("A crowd applauds, such as in a theatre", ["A crowd applauds, such as in a theatre"]),
        ("Two men talking with an engine idling", ["Two men talking", "an engine idling"]),
        ("the sound of rain on a roof; thunder as well as wind", ["rain on a roof", "thunder", "wind"]),
        ('A voice says "stop"', ["A voice says 'stop'"]),
        ("犬が吠える", ["犬が吠える"]),
        ("a clock", ["a clock"]),
        ("...", ["..."]),
    ],
)
def test_each_sound_is_asked_for_in_the_captions_own_words(caption: str, sounds: list[str]) -> None:
    assert asked(caption, "Is this sound in the audio") == sounds


@pytest.mark.parametrize(
    ("caption", "order"),
    [
        ("A dog barks then a bell rings", ["A dog barks | a bell rings"]),
        ("A dog barks after a bell rings", ["a bell rings | A dog barks"]),
        ("After a bell rings, a dog barks", ["a bell rings | a dog barks"]),
        ("Before a bell rings, a dog barks", ["a dog barks | a bell rings"]),
        ("first rain, followed by thunder and finally wind", ["rain | thunder", "thunder | wind"]),
        ("a dog and a bell", []),
    ],
)
def test_order_is_asked_for_where_the_caption_has_one(caption: str, order: list[str]) -> None:
    assert asked(caption, "Does ") == order


@pytest.mark.parametrize(
    "caption",
    [
        "A dog barks while a bell rings",
        "While a dog barks, a bell rings",
        "A dog barks and a bell rings simultaneously",
    ],
)
def test_overlap_is_asked_for_where_the_caption_has_one(caption: str) -> None:
    assert [pair.lower() for pair in asked(caption, "Are ")] == ["a dog barks | a bell rings"]


@pytest.mark.parametrize(
    ("caption", "question"),
    [
        ("a dog barks twice", 'Is the sound "a dog barks" heard exactly 2 times?'),
        ("A dog barks once, then a bell", 'Is the sound "A dog barks" heard exactly once?'),
        ("a horn honks 12 times", 'Is the sound "a horn honks" heard exactly 12 times?'),
        ("three loud beeps", 'Is the sound "loud beeps" heard exactly 3 times?'),
    ],
)
def test_a_number_is_asked_for_apart_from_its_sound(caption: str, question: str) -> None:
    assert Check(question) in caption_checks(caption)
    assert asked(caption, "Is this")[0] == re.findall('"([^"]*)"', question)[0]


def test_what_a_caption_excludes_must_not_be_heard_and_nothing_else_either() -> None:
    checks = caption_checks("A dog barks without any music")
    assert checks == [
        Check('Is this sound in the audio: "A dog barks"?'),
        Check('Is this sound in the audio: "music"?', yes=False),
        Check('Apart from "A dog barks", is there any other sound or background noise?', yes=False),
    ]


def test_the_captions_of_the_sound_world_are_understood() -> None:
    for prompt in bank("crpo", 300, 0):
        content, checks = parse(prompt.text), caption_checks(prompt.text)
        assert content is not None
        questions = [check.question.split()[0] for check in checks]
        events, counted = len(content.events), sum(event.count > 1 for event in content.events)
        assert len(asked(prompt.text, "Is this")) == events, prompt.text
        assert len(asked(prompt.text, "Is the sound")) == counted, prompt.text
        assert questions.count("Are") == int(content.overlap), prompt.text
        assert questions.count("Does") == (0 if content.overlap else events - 1), prompt.text


def test_long_captions_have_a_bounded_number_of_checks() -> None:
    caption = " then ".join(f"a dog barks {k} times" for k in range(2, 40))
    checks = caption_checks(caption)
    assert len(asked(caption, "Is this")) == MAX_EVENTS and len(checks) <= MAX_CHECKS


def test_any_text_has_checks() -> None:
    rng = np.random.default_rng(0)
    words = ["and", "then", "twice", "as", "after", "without", ",", ";", "a", "dog", "two", "beeps", "first", "\n", '"']
    for _ in range(500):
        checks = caption_checks(" ".join(rng.choice(words, rng.integers(1, 9))))
        assert 0 < len(checks) <= MAX_CHECKS and all(check.question.endswith("?") for check in checks)

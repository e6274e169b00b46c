from __future__ import annotations

import numpy as np

from tangoflux.soundworld import Event, SceneContent, bank, caption, parse, split_of
from tangoflux.soundworld.prompt_kinds import combination, shapes_of


def sentence(*events: Event, overlap: bool = False) -> str:
    return caption(SceneContent(events, overlap), np.random.default_rng(0))


def test_prompts_are_alike_that_have_the_same_held_out_pair() -> None:
    for prompt in bank("dev", 100, seed=0):
        content = parse(prompt.text)
        assert content is not None
        pair = combination(prompt.text).split("+")
        assert len(pair) == 2 and set(pair) <= set(content.kinds) and split_of(pair) == "dev"
    assert combination(sentence(Event("bell"), Event("bark"))) == combination(sentence(Event("bark", 2), Event("bell")))
    assert combination("rain on a roof") == "rain on a roof"


def test_a_prompt_has_the_shape_of_its_events() -> None:
    bark, bell = Event("bark"), Event("bell", 2)
    assert shapes_of(sentence(bark)) == {"single"}
    assert shapes_of(sentence(bark, bell)) == {"then", "repeated"}
    assert shapes_of(sentence(bark, Event("drum"), overlap=True)) == {"overlap"}
    assert shapes_of(sentence(bark, Event("drum"), Event("bird"))) == {"three"}
    assert shapes_of("rain on a roof") == set()

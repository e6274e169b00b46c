"""The sound world: scenes, their splits, their sound and their captions."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from tangoflux.soundworld import (
    KINDS,
    SAMPLE_RATE_HZ,
    Event,
    Scene,
    SceneContent,
    Split,
    bank,
    caption,
    combinations_of,
    corrupt,
    noisy_caption,
    parse,
    possible_corruptions,
    random_scene,
    render,
    split_of,
    synthesise,
)
from tangoflux.soundworld.captions import all_corruptions, find_mentions

SPLITS: tuple[Split, ...] = ("train", "crpo", "dev", "test", "all")


def scenes(split: Split, n: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng, split) for _ in range(n)]


@pytest.mark.parametrize("split", SPLITS)
def test_parse_inverts_every_caption(split: Split) -> None:
    rng = np.random.default_rng(1)
    for scene in scenes(split, 1500):
        text = caption(scene, rng)
        assert text == text.lower() and text.isascii()
        assert parse(text) == scene.content
        assert parse(f" {text.upper()}. ") == scene.content


@pytest.mark.parametrize(
    "text", ["", "hello", "a dog barks then", "a dog barks four times", "a dog barks " * 1000, "é犬"]
)
def test_a_sentence_from_elsewhere_has_no_reading(text: str) -> None:
    assert parse(text) is None


def test_mentions_are_the_words_that_name_an_event() -> None:
    text = "a dog barks after a siren wails twice"
    found = find_mentions(text)
    assert found is not None
    words = [(mention.event, text[mention.start : mention.end]) for mention in found[0]]
    assert words == [(Event("siren", 2), "a siren wails twice"), (Event("bark"), "a dog barks")] and not found[1]


def test_after_names_the_later_event_first() -> None:
    assert parse("a dog barks after a siren wails twice") == SceneContent((Event("siren", 2), Event("bark")))
    assert parse("a dog barks before a siren wails") == SceneContent((Event("bark"), Event("siren")))


def test_events_at_the_same_time_have_no_order() -> None:
    assert parse("a dog barks while a siren wails") == parse("a siren wails while a dog barks")


def test_splits_share_no_combination_of_kinds() -> None:
    pairs = {split: set(map(frozenset[str], combinations_of(split, 2))) for split in ("train", "dev", "test")}
    assert (len(pairs["train"]), len(pairs["dev"]), len(pairs["test"])) == (48, 6, 12)
    assert len(set.union(*pairs.values())) == 66
    assert Counter(kind for pair in pairs["train"] for kind in pair).most_common()[-1][1] >= 8
    assert (
        set(KINDS)
        == {kind for pair in pairs["dev"] for kind in pair}
        == {kind for pair in pairs["test"] for kind in pair}
    )


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_keep_the_rules_of_their_split(split: Split) -> None:
    for scene in scenes(split, 1000):
        counts = [event.count for event in scene.events]
        assert len({event.kind for event in scene.events}) == len(counts) <= 3
        assert sum(counts) <= 5 and sum(count > 1 for count in counts) <= 1
        assert 1.0 <= scene.duration_s <= 4.0 and (scene.duration_s * 2).is_integer()
        assert split == "all" or split_of(scene.content.kinds) == ("train" if split == "crpo" else split)
        assert not scene.overlap or len(counts) == 2
        assert split in ("train", "all") or len(counts) > 1


def test_rendering_has_the_length_a_safe_level_and_varied_loudness() -> None:
    rng = np.random.default_rng(2)
    levels: list[float] = []
    for scene in scenes("train", 150):
        waveform = render(scene, rng)
        assert waveform.dtype == np.float32 and waveform.shape == (scene.duration_s * SAMPLE_RATE_HZ,)
        assert np.isfinite(waveform).all() and np.abs(waveform).max() < 1.0
        levels.append(float(np.sqrt(np.mean(waveform**2))))
    assert min(levels) > 0.005 and np.std(levels) > 0.03


def test_rendering_depends_on_the_generator_alone() -> None:
    scene = scenes("test", 1)[0]
    first, again, other = (render(scene, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("duration_s", [0.3, 4.0])
def test_every_kind_sounds_at_every_length(kind: str, duration_s: float) -> None:
    samples = synthesise(kind, duration_s, np.random.default_rng(5))
    assert 0 < len(samples) <= duration_s * SAMPLE_RATE_HZ
    assert np.abs(samples).max() == pytest.approx(1.0, abs=1e-4)


def test_repetitions_are_told_apart_by_silence() -> None:
    waveform = render(Scene((Event("beep", 3),), False, 3.0), np.random.default_rng(6))
    loud = np.abs(waveform.reshape(-1, 400)).max(axis=1) > 0.01
    assert int(np.sum(np.diff(loud.astype(int)) == 1)) + int(loud[0]) == 3


def test_a_corrupted_content_differs_and_stays_within_the_training_combinations() -> None:
    rng = np.random.default_rng(7)
    for scene in scenes("train", 500):
        for way in all_corruptions(scene.content):
            wrong = corrupt(scene.content, way, rng)
            assert wrong != scene.content
            assert split_of(wrong.kinds) == "train"
            assert parse(caption(wrong, rng)) == wrong


def test_an_event_is_added_in_any_place_of_those_in_order_while_there_is_room() -> None:
    rng, content = np.random.default_rng(9), SceneContent((Event("bark", 2), Event("bell")))
    found = {corrupt(content, "add", rng).events for _ in range(60)}
    rest = {tuple(event for event in events if event in content.events) for events in found}
    assert rest == {content.events} and all(len(events) == 3 for events in found)
    assert {next(n for n, event in enumerate(events) if event not in content.events) for events in found} == {0, 1, 2}
    full = SceneContent((Event("bark"), Event("bell"), Event("hiss")))
    for scene in (full, SceneContent((Event("bark"), Event("bell")), overlap=True)):
        assert all_corruptions(scene) == possible_corruptions(scene)


def test_noise_is_the_share_of_wrong_captions() -> None:
    rng = np.random.default_rng(8)
    drawn = scenes("train", 1000)
    assert all(parse(noisy_caption(scene, rng, 0.0)) == scene.content for scene in drawn)
    wrong = sum(parse(noisy_caption(scene, rng, 0.3)) != scene.content for scene in drawn)
    assert 0.24 < wrong / len(drawn) < 0.36


@pytest.mark.parametrize("split", SPLITS)
def test_a_bank_is_unique_deterministic_and_grows_at_its_end(split: Split) -> None:
    prompts = bank(split, 400, seed=1)
    assert prompts == bank(split, 500, seed=1)[:400]
    assert prompts != bank(split, 400, seed=2)
    assert len({(prompt.text, prompt.duration_s) for prompt in prompts}) == len({p.id for p in prompts}) == 400


def test_no_held_out_pair_stands_in_a_training_prompt() -> None:
    seen = {
        frozenset(pair)
        for split in ("train", "crpo")
        for s in scenes(split, 2000)
        for pair in combinations(s.content.kinds, 2)
    }
    for split in ("dev", "test"):
        assert not seen & set(map(frozenset[str], combinations_of(split, 2)))

"""The event detector, and how a scene is read from activity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tangoflux.soundworld import KINDS, Event, Scene, SceneContent, random_scene, render, render_with_units
from tangoflux.soundworld.activity import activity_of, read_activity
from tangoflux.soundworld.detector import DetectorConfig, EventDetector


@pytest.fixture(scope="module")
def detector() -> EventDetector:
    torch.manual_seed(0)
    return EventDetector(DetectorConfig(channels=4, width=16, dilations=(1,))).eval()


def scenes(n: int) -> list[Scene]:
    rng = np.random.default_rng(0)
    return [random_scene(rng, "train") for _ in range(n)]


def test_the_activity_of_a_rendered_scene_is_read_back_as_the_scene() -> None:
    rng = np.random.default_rng(4)
    for scene in scenes(300):
        _, units = render_with_units(scene, rng)
        assert read_activity(activity_of(units)) == scene.content


def test_activity_that_no_scene_has_is_told_as_it_is() -> None:
    activity = np.zeros((126, len(KINDS)), np.float32)
    assert read_activity(activity) == SceneContent(())
    for start in (0, 20, 40, 60):
        activity[start : start + 10, KINDS.index("bark")] = 1.0
    assert read_activity(activity) == SceneContent((Event("bark", 4),))
    activity[30:35, KINDS.index("bell")] = 0.9
    events = (Event("bark", 2), Event("bell"), Event("bark", 2))
    assert read_activity(activity) == SceneContent(events)


def test_a_flicker_is_neither_an_event_nor_a_gap() -> None:
    activity = np.zeros((126, len(KINDS)), np.float32)
    activity[10:30, 0] = 1.0
    activity[20, 0] = 0.0
    activity[50:52, 1] = 1.0
    assert read_activity(activity) == SceneContent((Event(KINDS[0]),))


def test_loudness_makes_no_difference(detector: EventDetector) -> None:
    rng = np.random.default_rng(1)
    waveform = torch.from_numpy(render(scenes(1)[0], rng))
    features = detector.log_mel(torch.stack([detector.log_mel.fit(waveform), detector.log_mel.fit(0.2 * waveform)]))
    logits = detector(features)
    assert torch.allclose(logits[0], logits[1], atol=1e-3)


def test_a_waveform_is_heard_the_same_alone_and_among_others(detector: EventDetector) -> None:
    rng = np.random.default_rng(2)
    waveforms = [render(scene, rng) for scene in scenes(4)]
    together = detector.detect(waveforms, 16_000)
    assert together == [detector.detect([waveform], 16_000)[0] for waveform in waveforms]


@pytest.mark.parametrize("shape", [(0,), (1, 1), (2, 8_000), (100_000,)])
def test_audio_of_any_length_and_channels_is_taken(detector: EventDetector, shape: tuple[int, ...]) -> None:
    waveform = np.random.default_rng(3).uniform(-0.1, 0.1, shape).astype(np.float32)
    assert len(detector.detect([waveform], 22_050)) == 1


def test_a_saved_detector_hears_the_same(detector: EventDetector, tmp_path: Path) -> None:
    detector.save(tmp_path)
    loaded = EventDetector.load(tmp_path)
    features = torch.randn(2, 251, 64) * 20 - 30
    assert torch.allclose(detector(features), loaded(features), atol=2e-2)

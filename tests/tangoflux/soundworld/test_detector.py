"""The event detector and the slots that describe a scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tangoflux.soundworld import MAX_EVENTS, Scene, random_scene, render
from tangoflux.soundworld.detector import DetectorConfig, EventDetector
from tangoflux.soundworld.slots import (
    NO_EVENT,
    SLOT_LOGITS,
    SlotLogits,
    read_slots,
    slot_loss,
    slot_targets,
    split_logits,
)


@pytest.fixture(scope="module")
def detector() -> EventDetector:
    torch.manual_seed(0)
    return EventDetector(DetectorConfig(channels=4, width=16, layers=1)).eval()


def scenes(n: int) -> list[Scene]:
    rng = np.random.default_rng(0)
    return [random_scene(rng, "train") for _ in range(n)]


def test_certain_logits_are_read_back_as_the_scene() -> None:
    contents = [scene.content for scene in scenes(200)]
    targets = slot_targets(contents)
    kinds = torch.nn.functional.one_hot(targets.kinds, NO_EVENT + 1).float()
    counts = torch.nn.functional.one_hot(targets.counts.clamp(min=0), 3).float()
    logits = SlotLogits(20 * kinds, 20 * counts, 40 * targets.overlap - 20)
    assert read_slots(logits) == contents
    assert slot_loss(logits, targets) < 1e-3


def test_one_vector_of_logits_is_split_into_slots() -> None:
    logits = split_logits(torch.zeros(2, SLOT_LOGITS))
    assert logits.kinds.shape == (2, MAX_EVENTS, NO_EVENT + 1)
    assert logits.counts.shape == (2, MAX_EVENTS, 3)
    assert logits.overlap.shape == (2,)


def test_loudness_makes_no_difference(detector: EventDetector) -> None:
    rng = np.random.default_rng(1)
    waveform = torch.from_numpy(render(scenes(1)[0], rng))
    features = detector.log_mel(torch.stack([detector.log_mel.fit(waveform), detector.log_mel.fit(0.2 * waveform)]))
    logits = detector(features)
    assert torch.allclose(logits.kinds[0], logits.kinds[1], atol=1e-3)


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
    assert torch.allclose(detector(features).kinds, loaded(features).kinds, atol=2e-2)

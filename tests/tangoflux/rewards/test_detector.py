from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tangoflux.errors import CheckpointError
from tangoflux.rewards import DetectorReward
from tangoflux.soundworld import random_scene, render
from tangoflux.soundworld.activity import segments
from tangoflux.soundworld.aspects import aspects
from tangoflux.soundworld.captions import caption
from tangoflux.soundworld.detector import EventDetector

RATE = 16_000


def test_scores_are_what_the_detector_reads_against_the_caption(detector_dir: Path) -> None:
    detector = EventDetector.load(detector_dir)
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng, "train") for _ in range(3)]
    waveforms = [render(scene, rng)[None] for scene in scenes]
    heard = detector.activity(waveforms, RATE)
    expected = [aspects(scene.content, segments(found)) for scene, found in zip(scenes, heard, strict=True)]
    prompts = [caption(scene, rng) for scene in scenes]
    reward = DetectorReward(detector_dir, "d", "recall")
    np.testing.assert_equal(reward.grade(prompts, waveforms, RATE), expected)
    np.testing.assert_array_equal(reward(prompts, waveforms, RATE), [row["recall"] for row in expected])


def test_what_cannot_be_judged_has_no_score(detector_dir: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (1, RATE)).astype(np.float32)
    broken = noise.copy()
    broken[0, 5] = np.nan
    prompts = ["A dog barks.", "colourless green ideas sleep furiously", "", "a dog barks", "a dog barks"]
    scores = DetectorReward(detector_dir, "d")(prompts, [noise, noise, noise, broken, noise[:, :0]], RATE)
    assert np.isnan(scores).tolist() == [False, True, True, True, True]
    assert scores[0] in (0.0, 1.0)
    assert DetectorReward(detector_dir, "d")([], [], RATE).shape == (0,)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_broken_directory_is_refused_and_the_file_named(detector_dir: Path, tmp_path: Path, name: str) -> None:
    for file in detector_dir.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[: len(content) // 2] if file.name == name else content)
    with pytest.raises(CheckpointError, match=name):
        DetectorReward(tmp_path, "d")
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        DetectorReward(tmp_path, "d")


def test_another_models_config_is_refused(detector_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clap"}')
    with pytest.raises(CheckpointError, match=r"config\.json is not the config of an event detector"):
        DetectorReward(tmp_path, "d")

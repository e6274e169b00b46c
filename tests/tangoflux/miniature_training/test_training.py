"""The trainings of the small models, at the size of a toy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from tangoflux.miniature_training import train_clap, train_detector, train_grounder
from tangoflux.miniature_training.clap import TRAININGS, Role, hard_negatives, text_embeddings, tokenise
from tangoflux.miniature_training.clap_files import feature_extractor, make_tokenizer
from tangoflux.miniature_training.data import augment, rendered_scenes
from tangoflux.miniature_training.detector import DetectorTraining
from tangoflux.miniature_training.grounder import GrounderTraining, grounding_loss
from tangoflux.miniature_training.loop import LoopConfig, run_loop
from tangoflux.miniature_training.vae import VaeTraining, train_decoder, train_vae
from tangoflux.model.autoencoder import Autoencoder
from tangoflux.model.log_mel import LogMel, LogMelConfig
from tangoflux.soundworld import KINDS, Event, SceneContent, Unit, bank, random_scene, render
from tangoflux.soundworld.activity import FRAME_S, activity_of
from tangoflux.soundworld.background import BACKGROUNDS
from tangoflux.soundworld.detector import EventDetector
from tangoflux.soundworld.grounder import MOST_UNITS, Grounder, Grounding, heard_units


def quiet(line: str) -> None:
    del line


def test_a_resumed_training_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    def train(stops: list[int], checkpoint: Path) -> Tensor:
        for stop in stops:
            torch.manual_seed(0)
            model = nn.Linear(3, 1)

            def loss_of_step(step: int, model: nn.Linear = model, stop: int = stop) -> Tensor:
                if step == stop:
                    raise KeyboardInterrupt
                inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
                return (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()

            try:
                run_loop(model, loss_of_step, LoopConfig(12, 0.1, warmup_steps=2), checkpoint, quiet, save_every_s=0.0)
            except KeyboardInterrupt:
                continue
            return model.weight.detach()
        raise AssertionError

    assert torch.equal(train([12], tmp_path / "whole.pt"), train([5, 12], tmp_path / "broken.pt"))


def test_rendered_scenes_are_kept_and_found_again(tmp_path: Path) -> None:
    first = rendered_scenes("train", 5, 1, tmp_path, quiet)
    again = rendered_scenes("train", 5, 1, tmp_path, quiet)
    assert first.scenes == again.scenes
    assert np.array_equal(first.log_mel, again.log_mel) and first.log_mel.shape == (5, 251, 64)


def test_augmentation_keeps_the_padding_silent_and_depends_on_its_generator(tmp_path: Path) -> None:
    scenes, log_mel, frames = rendered_scenes("train", 8, 2, tmp_path, quiet).select(np.arange(8))
    changed, again = (augment(log_mel, frames, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(changed, again)
    assert changed.shape == log_mel.shape and changed.min() >= -100 and not torch.equal(changed, log_mel)
    short = min(range(8), key=lambda row: scenes[row].duration_s)
    assert changed[short, frames[short] + 12 :].max() == -100


@pytest.mark.parametrize("text", ["a dog barks", "", "犬が吠える 🐕", "x" * 10_000])
def test_any_text_becomes_at_most_64_tokens_without_unknown_ones(text: str) -> None:
    ids = tokenise(make_tokenizer(1, captions=50), [text])["input_ids"][0].tolist()
    assert len(ids) <= 64 and ids[0] == 0 and ids[-1] == 2 and 3 not in ids


def test_hard_negatives_differ_from_the_scene_and_from_each_other() -> None:
    content = SceneContent((Event("bark", 2), Event("siren")))
    wrong = hard_negatives(content, 4, np.random.default_rng(0))
    assert len({content, *wrong}) == 5


def test_the_default_features_are_those_of_the_saved_extractor(tmp_path: Path) -> None:
    feature_extractor().save_pretrained(tmp_path)
    extractor = ClapFeatureExtractor.from_pretrained(tmp_path)
    rng = np.random.default_rng(4)
    waveform = render(random_scene(rng, "train"), rng)
    expected = extractor(waveform, sampling_rate=16_000, return_tensors="pt")["input_features"][0, 0]
    log_mel = LogMel(LogMelConfig())
    features = log_mel(log_mel.fit(torch.from_numpy(waveform))[None])[0]
    assert (features - expected)[expected > -70].abs().max() < 0.02


def test_the_detector_is_trained_and_saved(tmp_path: Path) -> None:
    config = DetectorTraining(scenes=16, heldout_scenes=4, batch_size=4, loop=LoopConfig(3, 1e-3))
    quality = train_detector(tmp_path / "detector", tmp_path / "cache", quiet, config=config)
    assert 0.0 <= quality["heldout_exact"] <= 1.0
    assert len(EventDetector.load(tmp_path / "detector").detect([np.zeros(16_000, np.float32)], 16_000)) == 1
    assert sum(file.stat().st_size for file in (tmp_path / "detector").iterdir()) < 1_500_000


def test_the_grounder_is_trained_and_saved(tmp_path: Path) -> None:
    config = GrounderTraining(scenes=16, heldout_scenes=4, batch_size=4, loop=LoopConfig(3, 1e-3))
    quality = train_grounder(tmp_path / "grounder", tmp_path / "cache", quiet, config=config)
    assert 0.0 <= quality["heldout_recall"] <= 1.0
    loaded = Grounder.load(tmp_path / "grounder")
    assert loaded.ground([np.zeros(16_000, np.float32)], 16_000).spans.shape == (1, len(KINDS), 2)
    assert sum(file.stat().st_size for file in (tmp_path / "grounder").iterdir()) < 1_500_000


def test_the_grounders_loss_is_least_where_it_tells_the_activity() -> None:
    units = [Unit("bark", 0.5, 0.4), Unit("bark", 1.2, 0.4), Unit("bell", 2.0, 1.0)]
    activity = activity_of(units)[None].astype(np.bool_)
    present, counts = torch.full((1, len(KINDS)), -9.0), torch.zeros(1, len(KINDS), MOST_UNITS)
    spans = torch.zeros(1, len(KINDS), 2)
    for kind, count, span in (("bark", 2, (16 / 126, 50 / 126)), ("bell", 1, (63 / 126, 94 / 126))):
        column = KINDS.index(kind)
        present[0, column], counts[0, column, count - 1] = 9.0, 9.0
        spans[0, column] = torch.tensor(span)
    told = Grounding(present, counts, spans)
    assert grounding_loss(told, activity) < 0.05
    assert set(heard_units(told, 0)) == {"bark", "bell"} and len(heard_units(told, 0)["bark"]) == 2
    for wrong in (
        told._replace(present=-present),
        told._replace(counts=counts.roll(1, -1)),
        told._replace(spans=spans + 0.1),
    ):
        assert grounding_loss(wrong, activity) > 0.5


def test_a_background_is_active_from_start_to_end_and_changes_nothing_else(tmp_path: Path) -> None:
    plain, noisy = (rendered_scenes("train", 6, 3, tmp_path, quiet, share) for share in (0.0, 1.0))
    assert plain.scenes == noisy.scenes
    for scene, activity in zip(noisy.scenes, noisy.activity, strict=True):
        inside = activity[: int(scene.duration_s / FRAME_S)]
        assert any(inside[:, KINDS.index(kind)].all() for kind in BACKGROUNDS)


@pytest.mark.parametrize("role", get_args(Role))
def test_a_clap_model_is_trained_and_saved_in_the_layout_of_transformers(role: Role, tmp_path: Path) -> None:
    config = replace(TRAININGS[role], scenes=16, heldout_scenes=4, batch_size=4, loop=LoopConfig(2, 1e-3))
    quality = train_clap(tmp_path / role, tmp_path / "cache", role, quiet, config=config)
    assert 0.0 <= quality["heldout_retrieval_of_5"] <= 1.0
    model = ClapModel.from_pretrained(tmp_path / role, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / role)
    texts = tokenizer([prompt.text for prompt in bank("dev", 3, 0)], padding=True, return_tensors="pt")
    assert text_embeddings(model, texts).shape == (3, 128)
    assert sum(file.stat().st_size for file in (tmp_path / role).iterdir()) < 2_500_000


def test_the_decoder_learns_on_while_the_latents_stay(tmp_path: Path) -> None:
    few = VaeTraining(steps=2, scenes=2, batch_size=2)
    train_vae(tmp_path / "vae", tmp_path / "cache", quiet, few)
    train_decoder(tmp_path / "vae", tmp_path / "decoder", tmp_path / "cache", quiet, few)
    before, after = Autoencoder.load(tmp_path / "vae"), Autoencoder.load(tmp_path / "decoder")
    waveform = torch.from_numpy(render(random_scene(np.random.default_rng(0), "dev"), np.random.default_rng(0)))
    latents = before.encode(waveform[None, None])
    assert torch.equal(after.encode(waveform[None, None]), latents)
    assert not torch.allclose(after.decode(latents), before.decode(latents))

"""The log-mel features against transformers' own extractor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor

from tangoflux.model.log_mel import LogMel, LogMelConfig, MelScale, Padding, with_time_code
from tangoflux.soundworld import random_scene, render


@pytest.mark.parametrize(
    ("padding", "truncation", "mel_scale"),
    [
        ("pad", "rand_trunc", "slaney"),
        ("repeatpad", "rand_trunc", "slaney"),
        ("repeat", "rand_trunc", "slaney"),
        ("repeatpad", "fusion", "htk"),
    ],
)
def test_the_features_are_those_of_the_extractor(padding: Padding, truncation: str, mel_scale: MelScale) -> None:
    extractor = ClapFeatureExtractor(
        sampling_rate=16_000,
        hop_length=256,
        max_length_s=4,
        frequency_min=50,
        frequency_max=7_800,
        truncation=truncation,
        padding=padding,
    )
    log_mel = LogMel(LogMelConfig(min_hz=50, max_hz=7_800, padding=padding, mel_scale=mel_scale))
    rng = np.random.default_rng(0)
    for _ in range(4):
        waveform = render(random_scene(rng, "train"), rng)
        expected = extractor(waveform, sampling_rate=16_000, return_tensors="np")["input_features"][0, 0]
        features = log_mel(log_mel.fit(torch.from_numpy(waveform))[None])[0].numpy()
        assert features.shape == expected.shape == (251, 64)
        # Far below the loudest band single precision is heard in the extractor's double precision.
        audible = expected > expected.max() - 90.0
        assert np.abs(features - expected)[audible].max() < 0.02
        assert features[~audible].max() < expected.max() - 85.0


def test_longer_audio_is_cut_from_its_start() -> None:
    log_mel = LogMel(LogMelConfig(max_samples=8_000))
    waveform = torch.randn(20_000)
    assert torch.equal(log_mel.fit(waveform), waveform[:8_000])


def test_no_samples_are_silence() -> None:
    log_mel = LogMel(LogMelConfig(padding="repeat"))
    assert log_mel.fit(torch.zeros(0)).abs().max() == 0


def test_the_time_code_rises_in_one_band_and_falls_in_the_next() -> None:
    features = torch.randn(2, 5, 4)
    code = with_time_code(features, 8.0) - features
    rising = torch.tensor([-8.0, -4.0, 0.0, 4.0, 8.0])
    torch.testing.assert_close(code, torch.stack((rising, -rising, rising, -rising), 1).expand(2, 5, 4))
    assert torch.equal(with_time_code(features, 0.0), features)

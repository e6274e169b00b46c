import numpy as np
import pytest
import torch

from tangoflux.model.autoencoder import Autoencoder
from tangoflux.model.layout import EMBEDDED
from tangoflux.model.mel_front import MelFront, MelFrontConfig
from tangoflux.soundworld.scenes import random_scene, render
from tests.tiny import tiny_autoencoder


@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize(("seconds", "frames"), [(1.0, 16), (2.0, 32), (0.01, 1)])
def test_a_waveform_becomes_the_promised_number_of_frames(front: bool, seconds: float, frames: int) -> None:
    model = tiny_autoencoder(front)
    assert model.frames_for(seconds) == frames
    latents = model.encode(torch.randn(2, 1, round(seconds * 16_000)))
    assert latents.shape == (2, frames, 8)
    assert model.decode(latents).shape == (2, 1, frames * 1024)


def noise_db(waveforms: torch.Tensor, reference: torch.Tensor) -> float:
    return 10 * float(torch.log10((waveforms - reference).square().mean() / reference.square().mean()))


def test_decoding_waveforms_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    model, latents = tiny_autoencoder(front=False), torch.randn(3, 16, 8)
    with torch.no_grad():
        together, alone = model.decode(latents), torch.cat([model.decode(row[None]) for row in latents])
    assert noise_db(together, alone) < -100


def test_frames_beyond_a_rows_duration_are_left_out_and_not_missed() -> None:
    torch.manual_seed(0)
    model, latents, samples = tiny_autoencoder(front=False), torch.randn(1, 64, 8), 3000
    decoded_frames: list[int] = []
    model.oobleck.decoder.register_forward_pre_hook(lambda _, inputs: decoded_frames.append(inputs[0].shape[-1]))
    with torch.no_grad():
        everything = model.decode(latents).clamp(-1, 1)[0, :, :samples]
    [waveform] = model.decode_rows([latents[0]], [samples / 16_000])
    assert noise_db(torch.from_numpy(waveform), everything) < -100
    assert decoded_frames[0] == 64
    assert decoded_frames[1] < 12


def test_the_posterior_of_rows_of_any_lengths_is_that_of_each_alone() -> None:
    torch.manual_seed(0)
    model = tiny_autoencoder()
    rows = [torch.randn(1, samples) for samples in (2048, 1024, 2048)]
    for row, found in zip(rows, model.posterior_rows(rows), strict=True):
        with torch.no_grad():
            expected = [part[0].numpy() for part in model.posterior(row[None])]
        assert found[0].shape == (row.shape[1] // 1024, 8)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_miniature_decodes_the_same_waveforms_in_any_batch() -> None:
    model, rng = Autoencoder.load(EMBEDDED["miniature"]), np.random.default_rng(0)
    scene = random_scene(rng, "test")
    with torch.no_grad():
        latents = torch.cat([model.encode(torch.from_numpy(render(scene, rng))[None, None]) for _ in range(3)])
        together, alone = model.decode(latents), torch.cat([model.decode(row[None]) for row in latents])
    assert noise_db(together, alone) < -80


def test_rounding_in_the_latents_stays_rounding_in_the_miniatures_waveforms() -> None:
    model, rng = Autoencoder.load(EMBEDDED["miniature"]), np.random.default_rng(0)
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(12):
            latents = model.encode(torch.from_numpy(render(random_scene(rng, "test"), rng))[None, None])
            rounded = latents * (1 + 1e-6 * torch.randn_like(latents))
            assert noise_db(model.decode(rounded), model.decode(latents)) < -80


def test_the_mel_front_gives_back_a_tone_at_its_pitch() -> None:
    time = torch.arange(16_384) / 16_000
    tone = 0.5 * torch.sin(2 * np.pi * 1000 * time)
    front = MelFront(MelFrontConfig(), 16_000)
    again = front.synthesise(front.analyse(tone[None]))[0]
    spectrum = torch.fft.rfft(again).abs()
    assert abs(int(spectrum.argmax()) * 16_000 / 16_384 - 1000) < 40
    assert 0.3 < again.abs().max() < 0.8


def test_silence_stays_silent_through_the_mel_front() -> None:
    front = MelFront(MelFrontConfig(), 16_000)
    assert front.synthesise(front.analyse(torch.zeros(1, 16_384))).abs().max() < 1e-4

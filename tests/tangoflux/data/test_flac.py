from __future__ import annotations

import numpy as np

from tangoflux.data.flac import decode_flac, encode_flac


def test_a_waveform_survives_to_16_bits() -> None:
    tone = np.sin(np.linspace(0, 500, 4000)).astype(np.float32)
    waveform, rate = decode_flac(encode_flac(np.stack([tone, -tone]), 16000))
    assert rate == 16000 and waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, [tone, -tone], atol=1e-4)


def test_audio_beyond_full_scale_is_clipped_and_what_is_not_finite_is_silent() -> None:
    waveform, _ = decode_flac(encode_flac(np.array([[2.0, -3.0, np.nan, np.inf]], np.float32), 8000))
    np.testing.assert_allclose(waveform, [[1, -1, 0, 0]], atol=1e-4)

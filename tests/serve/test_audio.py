from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import pytest
import soundfile

from serve.audio import encode
from serve.schemas import AudioFormat


@pytest.mark.parametrize("kind", get_args(AudioFormat))
def test_the_longest_audio_is_encoded_on_a_small_stack(kind: AudioFormat) -> None:
    rate, seconds = 44100, 30
    tone = (np.sin(np.arange(rate * seconds) / 20) / 2).astype(np.float32)
    usual = threading.stack_size(1 << 20)
    try:
        with ThreadPoolExecutor(1) as threads:
            file = threads.submit(encode, np.stack([tone, -tone]), rate, kind).result()
    finally:
        threading.stack_size(usual)
    found, found_rate = soundfile.read(io.BytesIO(file), dtype="float32")
    assert found_rate == rate and found.shape[1] == 2
    assert len(found) == pytest.approx(rate * seconds, abs=3000)
    middle = found[rate * 10 : rate * 11]
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05) and np.abs(middle.sum(axis=1)).max() < 0.05

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from actors.storage.samples import SampleFolder, read_samples
from tangoflux.data.flac import encode_flac

TONE = np.sin(np.linspace(0, 500, 4000))[None].astype(np.float32)
FLAC = encode_flac(TONE, 16000)


def test_a_sample_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = SampleFolder(tmp_path)
    path = folder.write(
        2, "p000007", "a beep", 0.25, encode_flac(np.vstack([TONE, -TONE]), 16000), {"reward": 0.5, "exact": None}
    )
    [sample] = read_samples(tmp_path)
    assert (sample.iteration, sample.prompt_id, sample.prompt, sample.duration_s) == (2, "p000007", "a beep", 0.25)
    assert (sample.reward, sample.judge, sample.exact) == (0.5, None, None)
    assert path == tmp_path / sample.file == tmp_path / "i0002" / "p000007.flac"
    audio, rate = soundfile.read(path)
    assert rate == 16000
    np.testing.assert_allclose(audio.T, np.vstack([TONE, -TONE]), atol=1e-4)


def test_the_last_sample_of_a_prompt_and_iteration_counts(tmp_path: Path) -> None:
    folder = SampleFolder(tmp_path)
    for iteration, prompt_id, reward in ((1, "b", 0.1), (0, "b", 0.2), (0, "a", 0.3), (1, "b", 0.4)):
        folder.write(iteration, prompt_id, "x", 0.25, FLAC, {"reward": reward})
    assert [(s.iteration, s.prompt_id, s.reward) for s in read_samples(tmp_path)] == [
        (0, "b", 0.2),
        (0, "a", 0.3),
        (1, "b", 0.4),
    ]


@pytest.mark.parametrize(
    "prompt_id", ["../../etc/passwd", "a/b", ".hidden", "", "鳥" * 300, "x" * 300, "\ud83e", "a:b"]
)
def test_any_prompt_id_makes_a_file_inside_its_folder(tmp_path: Path, prompt_id: str) -> None:
    path = SampleFolder(tmp_path).write(0, prompt_id, "x", 0.25, FLAC, {})
    assert path.parent == tmp_path / "i0000"
    assert path.exists() and len(path.name) < 100
    assert read_samples(tmp_path)[0].prompt_id == prompt_id


def test_ids_that_look_alike_do_not_share_a_file(tmp_path: Path) -> None:
    folder = SampleFolder(tmp_path)
    assert len({folder.write(0, name, "x", 0.25, FLAC, {}) for name in ("a/b", "a:b", "a-b")}) == 3


def test_a_directory_without_samples_has_none(tmp_path: Path) -> None:
    assert read_samples(tmp_path) == []

"""The published checkpoints by name, from a hub on this machine that has files of the same names and format."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub import LocalHub
from tests.tangoflux.rewards.laion_files import Sizes, laion_state, write_laion_checkpoint, write_roberta_tokenizer

PROGRAM = """
import sys
import numpy as np
from tangoflux.cli import run_main
from tangoflux.rewards import check_reward, load_reward

def main(argv):
    check_reward(sys.argv[1])
    reward = load_reward(sys.argv[1])
    print(reward.name, reward(["a dog barks"], [np.ones((2, 44100), np.float32)], 44100).shape)
    return 0

run_main(main)
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> LocalHub:
    root = tmp_path_factory.mktemp("hub")
    vocabulary = write_roberta_tokenizer(root / "FacebookAI" / "roberta-base")
    (root / "FacebookAI" / "roberta-base" / "model.safetensors").write_bytes(b"weights that nobody needs")
    checkpoints = root / "lukewys" / "laion_clap"
    checkpoints.mkdir(parents=True)
    for name, fusion in (("630k-audioset-best.pt", False), ("630k-audioset-fusion-best.pt", True)):
        sizes = Sizes(audio=16, text=64, joint=32, vocabulary=vocabulary, fusion=fusion)
        write_laion_checkpoint(checkpoints / name, laion_state(sizes))
    return LocalHub(root)


def score(name: str, address: str, home: Path, offline: str = "0") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_OFFLINE": offline, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run([sys.executable, "-c", PROGRAM, name], env=environment, capture_output=True, text=True)


def test_the_papers_reward_is_fetched_once_with_its_tokenizer_and_nothing_more(hub: LocalHub, tmp_path: Path) -> None:
    with hub.running() as address:
        first = score("0.5*630k-audioset-best+0.5*630k-audioset-fusion-best", address, tmp_path)
    assert first.stdout == "0.5*630k-audioset-best+0.5*630k-audioset-fusion-best (1,)\n", first.stderr
    assert "lukewys/laion_clap/630k-audioset-best.pt" in hub.downloads
    assert "FacebookAI/roberta-base/vocab.json" in hub.downloads
    assert "FacebookAI/roberta-base/model.safetensors" not in hub.downloads
    again = score("windows:630k-audioset-best", "http://127.0.0.1:1", tmp_path, offline="1")
    assert again.stdout == "windows:630k-audioset-best (1,)\n", again.stderr


def test_without_a_hub_the_error_says_what_to_do(tmp_path: Path) -> None:
    result = score("630k-audioset-best", "http://127.0.0.1:1", tmp_path, offline="1")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "630k-audioset-best.pt cannot be had from lukewys/laion_clap" in result.stderr
    assert "give the file's path instead of its name" in result.stderr

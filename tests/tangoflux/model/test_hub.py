from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tangoflux.model.layout import EMBEDDED
from tests.hub import LocalHub

PROGRAM = """
import sys
from tangoflux.cli import run_main
from tangoflux.pipeline import TangoFlux

def main(argv):
    [[waveform]] = TangoFlux.from_pretrained(sys.argv[1]).generate("a dog barks", 1.0, num_steps=1)
    print(waveform.shape)
    return 0

run_main(main)
"""


@pytest.fixture
def hub(tmp_path: Path) -> LocalHub:
    """The miniature as it would be published: FLAN-T5's config and tokenizer are in a repository of their own."""
    model, text = tmp_path / "hub" / "declare-lab" / "TangoFlux", tmp_path / "hub" / "google" / "flan-t5-large"
    shutil.copytree(EMBEDDED["miniature"], model)
    shutil.move(model / "text_encoder", text)
    (text / "model.safetensors").write_bytes(b"3 GB that nobody needs")
    values = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**values, "text_encoder_name": "google/flan-t5-large"}))
    return LocalHub(tmp_path / "hub")


def load(name: str, address: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run([sys.executable, "-c", PROGRAM, name], env=environment, capture_output=True, text=True)


def test_a_published_name_is_fetched_without_the_text_encoders_own_weights(hub: LocalHub, tmp_path: Path) -> None:
    with hub.running() as address:
        result = load("declare-lab/TangoFlux", address, tmp_path / "home")
    assert result.stdout == "(1, 16000)\n", result.stderr
    assert "declare-lab/TangoFlux/tangoflux.safetensors" in hub.downloads
    assert "google/flan-t5-large/tokenizer.json" in hub.downloads
    assert "google/flan-t5-large/model.safetensors" not in hub.downloads


class BreakingHub(LocalHub):
    """Ends the connection in the middle of the weights."""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        status, headers, body = super().answer(path)
        if path.endswith("tangoflux.safetensors"):
            headers["Content-Length"] = str(2 * len(body))
        return status, headers, body


def test_a_connection_that_breaks_is_one_clear_line(hub: LocalHub, tmp_path: Path) -> None:
    with BreakingHub(hub.root).running() as address:
        result = load("declare-lab/TangoFlux", address, tmp_path / "home")
    assert result.returncode == 2 and "cannot be downloaded from the hub" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_name_that_the_hub_lacks_is_one_clear_line(hub: LocalHub, tmp_path: Path) -> None:
    with hub.running() as address:
        result = load("declare-lab/Unknown", address, tmp_path / "home")
    assert result.returncode == 2
    assert "declare-lab/Unknown is not a local directory and cannot be downloaded from the hub" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1

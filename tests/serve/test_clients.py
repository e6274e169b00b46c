"""The HTTP clients of docs/serving.md, as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tests.serve.served import deploy

pytestmark = pytest.mark.ray

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"

SHOWN = "http://127.0.0.1:8000"


def clients(address: str) -> dict[str, str]:
    """The block of each language that calls the endpoint, with the address of the one that runs."""
    blocks = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return {language: text.replace(SHOWN, address) for language, text in blocks if f"{SHOWN}/v1" in text}


@pytest.fixture(scope="module")
def served(address: str, tiny_policy_dir: Path) -> str:
    """The address of a tiny model."""
    deploy(address, policy=str(tiny_policy_dir)).close()
    return address


@pytest.mark.parametrize(
    ("language", "command", "files"),
    [
        ("bash", ["bash", "-euc"], ["dog.flac"]),
        ("python", [sys.executable, "-c"], ["dog-0.wav", "dog-1.wav"]),
        ("javascript", ["node", "--input-type=module", "-e"], ["bell.mp3"]),
    ],
)
def test_the_documented_clients_get_audio(
    served: str, tmp_path: Path, language: str, command: list[str], files: list[str]
) -> None:
    program = "curl" if language == "bash" else command[0]
    if not shutil.which(program):
        pytest.skip(f"no {program} on this machine")
    text = clients(served)[language]
    ended = subprocess.run([*command, text], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    for name in files:
        assert soundfile.info(str(tmp_path / name)).duration == pytest.approx(2 if "bell" in name else 3, abs=0.1)

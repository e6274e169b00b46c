"""The endpoint for clients of ElevenLabs' API."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.serve.in_process import error_of, served


@pytest.fixture(scope="module")
def client(tiny_policy_dir: Path) -> Generator[TestClient]:
    with served(tiny_policy_dir, max_prompt_chars="100", max_seconds="3") as client:
        yield client


@pytest.mark.parametrize(
    ("output_format", "media_type", "seconds"),
    [
        ("mp3_44100_128", "audio/mpeg", None),
        ("pcm_24000", "audio/l16;rate=24000", 0.5),
        ("opus_48000_96", "audio/ogg", None),
        ("mp3_44100_32", "audio/mpeg", None),
        ("mp3_24000_48", "audio/mpeg", None),
        ("ulaw_8000", "audio/pcmu;rate=8000", None),
        ("alaw_8000", "audio/pcma;rate=8000", None),
    ],
)
def test_elevenlabs_clients_are_answered(
    client: TestClient, output_format: str, media_type: str, seconds: float | None
) -> None:
    body = {"text": "a bell rings", "duration_seconds": 0.5, "prompt_influence": 0.5}
    answer = client.post(f"/v1/sound-generation?output_format={output_format}", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (200, media_type), answer.text
    if seconds:
        assert len(answer.content) == 2 * round(seconds * 24000)


@pytest.mark.parametrize(
    "change",
    [
        {"model_id": "eleven_text_to_sound_v2"},
        {"model_id": "eleven_text_to_sound_v1", "loop": False},
        {"model_id": None, "loop": None, "prompt_influence": None},
        {"model_id": "base", "prompt_influence": 1},
    ],
)
def test_what_elevenlabs_clients_send_is_accepted(client: TestClient, change: dict[str, Any]) -> None:
    body = {"text": "a bell rings", "duration_seconds": 0.5, **change}
    assert client.post("/v1/sound-generation", json=body).status_code == 200


@pytest.mark.parametrize(
    ("change", "param", "text"),
    [
        ({"duration_seconds": 22}, "duration_seconds", "duration_seconds 22 must be from 0.001 to 3 seconds"),
        ({"duration_seconds": -1}, "duration_seconds", "duration_seconds: "),
        ({"text": " "}, "text", "text is blank"),
        ({"text": "x" * 101}, "text", "text has 101 characters"),
        ({"model_id": "v0009"}, "model_id", "there is no policy 'v0009'"),
        ({"loop": True}, "loop", "loop: "),
        ({"prompt_influence": 2}, "prompt_influence", "prompt_influence: "),
    ],
)
def test_elevenlabs_clients_are_told_their_own_fields(
    client: TestClient, change: dict[str, Any], param: str, text: str
) -> None:
    error = error_of(client.post("/v1/sound-generation", json={"text": "a bell", "duration_seconds": 0.5, **change}))
    assert error["param"] == param and error["message"].startswith(text), error

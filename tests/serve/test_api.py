from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from serve.options import check_reachable, key_hash, options_of
from tangoflux.errors import ConfigError, ResourceError
from tangoflux.model.autoencoder import Autoencoder
from tangoflux.pipeline import TangoFlux
from tests.serve.in_process import QUICK, URL, error_of, served


@pytest.fixture(scope="module")
def client(tiny_policy_dir: Path) -> Generator[TestClient]:
    with served(tiny_policy_dir, max_body_bytes="4096", max_prompt_chars="100", max_seconds="3") as client:
        yield client


@pytest.mark.parametrize(("kind", "container"), [("wav", "WAV"), ("flac", "FLAC"), ("mp3", "MP3"), ("ogg", "OGG")])
def test_audio_comes_in_the_format_that_was_asked_for(client: TestClient, kind: str, container: str) -> None:
    answer = client.post(URL, json={**QUICK, "response_format": kind, "seed": 5})
    assert answer.status_code == 200, answer.text
    with soundfile.SoundFile(io.BytesIO(answer.content)) as file:
        assert (file.format, file.samplerate, file.channels) == (container, 16000, 1)
        assert file.frames == pytest.approx(8000, abs=1200)
    assert answer.headers["x-policy-version"] == "base" and answer.headers["x-seed"] == "5"
    assert answer.headers["server-timing"].startswith("queued;dur=")


def test_a_seed_gives_the_audio_that_the_command_line_gives(client: TestClient, tiny_policy_dir: Path) -> None:
    answer = client.post(URL, json={**QUICK, "seed": 7, "guidance_scale": 3.0, "exact": True})
    found, _ = soundfile.read(io.BytesIO(answer.content), dtype="int16")
    model = TangoFlux.from_pretrained(tiny_policy_dir)
    [[expected]] = model.generate("a dog barks", 0.5, seed=7, num_steps=3, guidance_scale=3.0)
    assert np.abs(found / 32768 - expected[0]).max() < 1e-4


def test_many_samples_are_json_with_seeds_and_rewards_the_best_first(client: TestClient) -> None:
    answer = client.post(URL, json={**QUICK, "n": 2, "best_of": 3, "seed": 10})
    body = answer.json()
    rewards = [sample["reward"] for sample in body["data"]]
    assert len(rewards) == 2 and rewards == sorted(rewards, reverse=True)
    assert {sample["seed"] for sample in body["data"]} < {10, 11, 12}
    best = body["data"][0]
    single = client.post(URL, json={**QUICK, "seed": best["seed"]}, headers={"Accept": "application/json"}).json()
    again, first = (base64.b64decode(sample["audio"]) for sample in (single["data"][0], best))
    waves = [soundfile.read(io.BytesIO(audio))[0] for audio in (again, first)]
    assert np.abs(waves[0] - waves[1]).max() < 1e-3, "a sample's seed gives it alone, too"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [("application/json, text/plain, */*", "audio/wav"), ("application/json, audio/wav;q=0.1", "application/json")],
)
def test_the_accept_header_chooses_between_audio_and_json(client: TestClient, accept: str, kind: str) -> None:
    assert client.post(URL, json=QUICK, headers={"Accept": accept}).headers["content-type"] == kind


def test_progress_comes_by_step_and_then_the_audio(client: TestClient) -> None:
    with client.stream("POST", URL, json=QUICK, headers={"Accept": "text/event-stream"}) as answer:
        lines = [line for line in answer.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines[::2]]
    data = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert names == ["progress"] * 3 + ["audio"]
    assert [row["step"] for row in data[:3]] == [1, 2, 3]
    assert base64.b64decode(data[3]["data"][0]["audio"])[:4] == b"RIFF"


def test_an_error_after_the_first_step_is_an_event_and_before_it_a_status(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = {"Accept": "text/event-stream"}
    assert client.post(URL, json={**QUICK, "model": "v0009"}, headers=events).status_code == 404

    def fail(*_: Any) -> None:
        raise ResourceError("the codec is gone")

    monkeypatch.setattr(Autoencoder, "decode_rows", fail)
    answer = client.post(URL, json=QUICK, headers=events)
    assert answer.status_code == 200 and answer.text.startswith("event: progress\n")
    last = answer.text.split("event: ")[-1]
    assert last.startswith("error\n") and "the codec is gone" in last
    answer = client.post(URL, json=QUICK)
    assert answer.status_code == 500 and error_of(answer)["message"] == "the codec is gone"


@pytest.mark.parametrize("value", ["", "  ", "x" * 101])
def test_who_writes_prompt_is_told_prompt(client: TestClient, value: str) -> None:
    error = error_of(client.post(URL, json={"prompt": value, "audio_length": 1}))
    assert error["param"] == "prompt" and error["message"].startswith("prompt"), error


@pytest.mark.parametrize(
    ("change", "status", "param", "text"),
    [
        ({"audio_length": -1}, 422, "audio_length", "greater than 0"),
        ({"audio_length": 3600}, 400, "audio_length", "from 0.001 to 3 seconds"),
        ({"audio_length": 1e-9}, 400, "audio_length", "from 0.001 to 3 seconds"),
        ({"num_inference_steps": 500}, 400, "num_inference_steps", "at most 200"),
        ({"guidance_scale": 1e308}, 422, "guidance_scale", "less than or equal to 100"),
        ({"audio_length": 3.5}, 400, "audio_length", "from 0.001 to 3 seconds"),
        ({"n": 9}, 400, "n", "at most 8"),
        ({"n": 3, "best_of": 2}, 400, "best_of", "at least n"),
        ({"input": ""}, 422, "input", "at least 1 character"),
        ({"input": " \n"}, 400, "input", "blank"),
        ({"input": "x" * 101}, 400, "input", "100 are allowed"),
        ({"negative_prompt": "x" * 101}, 400, "negative_prompt", "100 are allowed"),
        ({"response_format": "exe"}, 422, "response_format", "'wav', 'flac', 'mp3' or 'ogg'"),
        ({"seed": -1}, 422, "seed", "greater than or equal to 0"),
        ({"model": "../../etc"}, 404, "model", "latest, base"),
        ({"audio_lenght": 2}, 422, "audio_lenght", "not permitted"),
    ],
)
def test_what_is_not_allowed_is_told(
    client: TestClient, change: dict[str, Any], status: int, param: str, text: str
) -> None:
    answer = client.post(URL, json={**QUICK, **change})
    error = error_of(answer)
    assert (answer.status_code, error["param"]) == (status, param), error
    assert text in error["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{", b"\xff\xfe", b'{"input": "\xc3("}', b'{"input": NaN}', b"[" * 2000]
    + [json.dumps(QUICK | {"audio_length": value}).encode() for value in (float("nan"), float("inf"), 1e308, "1", [])],
)
def test_junk_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post(URL, content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500 and error_of(answer), answer.text


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_json_that_is_not_sent_as_such_is_told(client: TestClient, kind: str | None) -> None:
    """As by curl -d, which sends it as a form."""
    answer = client.post(URL, content=json.dumps(QUICK), headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 422
    message = "the body must be a JSON object, sent with the header Content-Type: application/json"
    assert error_of(answer)["message"] == message


@pytest.mark.parametrize(("body", "place"), [(b"{", 1), (b'{"input": ', 10), (b"{'input': 'a'}", 1), (b"a dog", 0)])
def test_what_is_no_json_is_told_with_the_place(client: TestClient, body: bytes, place: int) -> None:
    error = error_of(client.post(URL, content=body, headers={"Content-Type": "application/json"}))
    assert error["message"].startswith("the body is not JSON: ")
    assert error["message"].endswith(f" at character {place}") and error["param"] is None


def test_a_lone_surrogate_is_refused(client: TestClient) -> None:
    body = json.dumps(QUICK | {"input": "x"}).replace('"x"', '"\\ud800"').encode()
    answer = client.post(URL, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, error_of(answer)["param"]) == (422, "input")


@pytest.mark.parametrize("stated", [True, False])
def test_a_body_that_is_too_large_is_refused_unread(client: TestClient, stated: bool) -> None:
    content = b"x" * 5000 if stated else iter([b"x" * 1000] * 5)
    answer = client.post(URL, content=content)
    assert answer.status_code == 413 and error_of(answer)["code"] == "body_too_large"


def test_a_key_is_asked_for_everywhere_but_for_health(tiny_policy_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    key = key_hash(options_of({"api_key_file": str(tmp_path / "key")}))
    assert key and "secret" not in key
    with served(tiny_policy_dir, key) as client:
        assert client.get("/health").status_code == 200
        for path in ("/", "/docs", "/openapi.json", "/v1/policies", "/nothing", "/health/", "//health"):
            answer = client.get(path)
            assert answer.status_code == 401 and error_of(answer)["type"] == "authentication_error", path
        basic = base64.b64encode(b"me:secret").decode()
        given = [("Authorization", "Bearer secret"), ("xi-api-key", "secret"), ("Authorization", f"Basic {basic}")]
        for name, value in given:
            assert client.get("/v1/policies", headers={name: value}).status_code == 200
        for wrong in ("Bearer wrong", "Bearer", "Basic %%", "Bearer secret2", ""):
            assert client.get("/v1/policies", headers={"Authorization": wrong}).status_code == 401


def test_other_addresses_than_loopback_ask_for_a_key_or_a_flag() -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        check_reachable(host, None, False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ConfigError, match="open-to-all"):
            check_reachable(host, None, False)
        check_reachable(host, "hash", False)
        check_reachable(host, None, True)


def test_pages_of_other_origins_are_not_let_in_unless_named(tiny_policy_dir: Path, client: TestClient) -> None:
    origin = {"Origin": "https://example.org"}
    assert "access-control-allow-origin" not in client.get("/health", headers=origin).headers
    with served(tiny_policy_dir, cors_origins="https://example.org") as other:
        assert other.get("/health", headers=origin).headers["access-control-allow-origin"] == "https://example.org"


def test_a_named_origin_may_ask_before_it_gives_the_key_and_reads_refusals(tiny_policy_dir: Path) -> None:
    origin = {"Origin": "https://example.org"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    with served(tiny_policy_dir, hashlib.sha256(b"key").hexdigest(), cors_origins="https://example.org") as client:
        assert client.options(URL, headers=origin | asked).status_code == 200
        refused = client.post(URL, json=QUICK, headers=origin)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://example.org")
        assert client.post(URL, json=QUICK, headers=origin | {"xi-api-key": "key"}).status_code == 200


def test_prompts_are_logged_only_when_that_is_asked_for(
    tiny_policy_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    prompt = "my secret " * 60  # more than the tokenizer takes, which is warned of
    for wanted in ("false", "true"):
        with served(tiny_policy_dir, log_prompts=wanted) as client:
            assert client.post(URL, json={**QUICK, "input": prompt}).status_code == 200
        assert ("secret" in caplog.text) == (wanted == "true")
    assert "is cut to its first" in caplog.text


def test_policies_health_docs_and_page(client: TestClient) -> None:
    facts = client.get("/v1/policies").json()
    assert (facts["latest"], facts["miniature"], facts["max_duration"]) == ("base", True, 3.0)
    assert [row["version"] for row in facts["policies"]] == ["base"]
    assert facts["defaults"] == {"audio_length": 3.0, "num_inference_steps": 50, "guidance_scale": 4.5}
    assert client.get("/health").json()["status"] == "ok"
    page, docs = client.get("/").text, client.get("/docs").text
    assert "<!doctype html>" in page.lower()
    assert "http://" not in docs and "https://" not in docs, "it works without a network"


def test_head_works_wherever_get_does(client: TestClient) -> None:
    documented = [path for path, methods in client.get("/openapi.json").json()["paths"].items() if "get" in methods]
    for path in [*documented, "/", "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"]:
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.headers["content-length"]) == (200, got.headers["content-length"]), path
    assert client.head(URL).status_code == 405


def test_before_the_first_policy_it_is_said_that_it_starts(tmp_path: Path) -> None:
    with served("miniature", run_dir=str(tmp_path)) as client:
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "starting")
        assert client.head("/health").status_code == 503
        answer = client.post(URL, json=QUICK)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "2"


def test_options_that_are_not_allowed_are_told() -> None:
    for name, text in (("prot", "unknown option prot"), ("port", "port is x"), ("poll_s", "poll_s is x")):
        with pytest.raises(ConfigError, match=text):
            options_of({name: "x"})
    with pytest.raises(ConfigError, match=r"--api-key-file /nowhere cannot be read: No such file"):
        key_hash(options_of({"api_key_file": "/nowhere"}))

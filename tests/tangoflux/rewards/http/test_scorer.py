"""Rewards by the scoring protocol, from a real server that works, fails, stalls and lies."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest

from tangoflux.errors import ConfigError, RewardError, WeightsChangedError
from tangoflux.rewards import Reward, check_reward, load_reward
from tangoflux.rewards.http.client import KEY_VARIABLE, Limits
from tangoflux.rewards.http.scorer import BATCH, HttpReward
from tests.reward_server import Answer, RewardServer, decoded, half, reset, saying, serving, slow, status

QUICK = Limits(concurrency=2, timeout_s=0.5, attempts=3, first_wait_s=0.01, max_wait_s=1.0, max_reply_bytes=10_000)
AUDIO = [np.full((2, 160), level, np.float32) for level in (0.5, 0.25)]
PROMPTS = ["a dog", "a bell"]


@pytest.fixture(scope="module")
def running() -> Iterator[RewardServer]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running: RewardServer) -> RewardServer:
    running.faults.clear()
    running.bodies.clear()
    running.headers.clear()
    running.checkpoint, running.most_at_once = "w1", 0
    return running


def reward(server: RewardServer, limits: Limits = QUICK) -> HttpReward:
    return HttpReward(f"{server.url}/score", limits)


def test_a_server_scores_what_it_hears(server: RewardServer) -> None:
    name = f"{server.url}/score"
    check_reward(name)
    loaded = load_reward(name)
    assert isinstance(loaded, Reward) and (loaded.name, loaded.checkpoint) == (name, "w1")
    np.testing.assert_allclose(loaded(PROMPTS, AUDIO, 16_000), [0.5, 0.25], atol=1e-4)
    body = server.bodies[-1]
    assert body.keys() == {"prompts", "audio", "audio_format", "sample_rate_hz"}
    assert (body["prompts"], body["audio_format"], body["sample_rate_hz"]) == (PROMPTS, "flac", 16_000)
    np.testing.assert_allclose(decoded(body["audio"][1]), AUDIO[1].T, atol=1e-4)


def test_it_is_one_of_several_rewards(server: RewardServer) -> None:
    loaded = load_reward(f"2*{server.url}/score+1*tests.actors.fake_rewards:Loudness")
    np.testing.assert_allclose(loaded(PROMPTS, AUDIO, 16_000), [1.5, 0.75], atol=1e-3)


def test_many_waveforms_are_asked_for_in_bounded_batches_a_few_at_a_time(server: RewardServer) -> None:
    levels = np.linspace(0.1, 0.9, 5 * BATCH + 1)
    waveforms = [np.full((1, 16), level, np.float32) for level in levels]
    scores = reward(server)(["x"] * len(levels), waveforms, 16_000)
    np.testing.assert_allclose(scores, levels, atol=1e-4)
    assert sorted(len(body["audio"]) for body in server.bodies) == [0, 1, *[BATCH] * 5]
    assert server.most_at_once == QUICK.concurrency
    assert reward(server)([], [], 16_000).shape == (0,)


@pytest.mark.parametrize(
    "fault",
    [status(500), status(503, Retry_After="0"), status(429), reset, half],
    ids=["500", "503", "429", "reset", "half"],
)
def test_a_failure_that_passes_costs_no_score(server: RewardServer, fault: Answer) -> None:
    asking = reward(server)
    server.faults.extend([fault, fault])
    np.testing.assert_allclose(asking(PROMPTS, AUDIO, 16_000), [0.5, 0.25], atol=1e-4)
    assert len(server.bodies) == 4


@pytest.mark.parametrize(
    "in_one_second", [lambda: "1", lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=2))]
)
def test_a_server_that_asks_for_time_gets_it(server: RewardServer, in_one_second: object) -> None:
    asking = reward(server, Limits(attempts=2, first_wait_s=0.01, max_wait_s=5))
    server.faults.append(status(429, Retry_After=in_one_second()))  # type: ignore[operator]
    start = time.monotonic()
    asking(PROMPTS, AUDIO, 16_000)
    assert 0.9 < time.monotonic() - start < 4


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ([status(500)] * 3, r'answers 500: \{"error": "no\\nluck"\} \(after 3 attempts\)'),
        ([reset] * 3, r"cannot be reached: .* \(after 3 attempts\)"),
        ([slow] * 3, r"does not answer within 0.5 s \(after 3 attempts\)"),
        ([status(503, Retry_After="3600")], r"answers 503: .*; it asks to wait 3600 s"),
        ([status(404)], r"refuses the request \(404\)"),
        ([status(401)], rf"refuses the request \(401\): .*; is {KEY_VARIABLE} right"),
        ([status(302, Location="http://elsewhere/score")], r"redirects elsewhere \(302\): name the address that"),
        ([saying("<html>\x1b[31mHello</html>", "text/html")], r"no JSON \(text/html\): <html> \[31mHello</html>$"),
        ([saying(b"\xff\xfe")], "no JSON"),
        ([saying("[" * 5000)], "no JSON"),
        ([saying("[1.0, 2.0]")], "no JSON object"),
        ([saying("{}")], "does not say which weights it has"),
        ([saying('{"scores": [1.0, NaN], "checkpoint": "w1"}')], "no JSON"),
        ([saying('{"scores": [1.0], "checkpoint": "w1"}')], "1 scores for 2 waveforms"),
        ([saying('{"scores": {"0": 1}, "checkpoint": "w1"}')], 'no list "scores" for 2 waveforms'),
        ([saying('{"scores": ["0.5", 1.0], "checkpoint": "w1"}')], "a score that is no number but str"),
        ([saying('{"scores": [true, 1.0], "checkpoint": "w1"}')], "a score that is no number but bool"),
        ([saying(" " * 10_001)], "more than 10,000 bytes"),
        ([saying(b"\x1f\x8b", Content_Encoding="gzip")], "no JSON"),
    ],
)
def test_a_failure_is_one_line_and_never_a_score(server: RewardServer, faults: list[Answer], message: str) -> None:
    asking = reward(server)
    server.faults.extend(faults)
    with pytest.raises(RewardError, match=message) as caught:
        asking(PROMPTS, AUDIO, 16_000)
    assert str(caught.value).startswith(f"{server.url}/score ") and str(caught.value).isprintable()
    assert not server.faults and len(str(caught.value)) < 300


def test_a_missing_score_is_none_and_so_is_one_that_is_not_finite(server: RewardServer) -> None:
    asking = reward(server)
    huge = "1" + "0" * 400
    for text in ("null", "1e999", huge):
        server.faults.append(saying(f'{{"scores": [0.5, {text}], "checkpoint": "w1"}}'))
        np.testing.assert_array_equal(np.isfinite(asking(PROMPTS, AUDIO, 16_000)), [True, False])


def test_scores_of_other_weights_are_refused(server: RewardServer) -> None:
    asking = reward(server)
    server.checkpoint = "w2"
    with pytest.raises(WeightsChangedError, match=r"/score has the weights 'w2' now, and had 'w1'"):
        asking(PROMPTS, AUDIO, 16_000)
    assert reward(server).checkpoint == "w2"


def test_the_key_is_sent_from_the_environment(server: RewardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    reward(server)
    assert "Authorization" not in server.headers[-1]
    monkeypatch.setenv(KEY_VARIABLE, "secret\n")
    assert reward(server) and server.headers[-1]["Authorization"] == "Bearer secret"
    monkeypatch.setenv(KEY_VARIABLE, "ключ")
    with pytest.raises(ConfigError, match=f"{KEY_VARIABLE} holds characters that a header cannot"):
        reward(server)


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    server: RewardServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert reward(server).checkpoint == "w1"
    monkeypatch.setenv("HTTP_PROXY", "gopher://x")
    with pytest.raises(ConfigError, match="the proxy of the environment cannot be used"):
        HttpReward("http://example.invalid/score", QUICK)


def test_a_server_that_is_down_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangoflux.rewards.registry.QUICK_LIMITS", QUICK)
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/score"
    with pytest.raises(ConfigError, match=rf"^reward '{url}': {url} cannot be reached: .*; start its server") as caught:
        check_reward(f"0.5*{url}+0.5*miniature-clap")
    assert "\n" not in str(caught.value)

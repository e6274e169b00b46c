"""An audio language model behind an OpenAI-compatible server as a reward."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tangoflux.errors import RewardError, WeightsChangedError
from tangoflux.rewards import Reward, check_reward, load_reward
from tangoflux.rewards.http.address import parse_address
from tangoflux.rewards.http.chat import ChatReward
from tangoflux.rewards.http.checks import caption_checks
from tangoflux.rewards.http.client import Limits
from tests.reward_server import RewardServer, decoded, saying, serving, status

QUICK = Limits(timeout_s=2.0, attempts=2, first_wait_s=0.01)
LOUD, QUIET = np.full((2, 160), 0.5, np.float32), np.zeros((2, 160), np.float32)
CAPTION = "a dog barks then a bell rings"


@pytest.fixture(scope="module")
def running() -> Iterator[RewardServer]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running: RewardServer) -> RewardServer:
    running.faults.clear()
    running.bodies.clear()
    running.model, running.fingerprint = "ears", "f1"
    running.says_yes = lambda question, audio: 0.5
    return running


def reward(server: RewardServer, query: str = "") -> ChatReward:
    name = f"openai:{server.url}/v1{query}#ears"
    return ChatReward(parse_address(name), name, QUICK)


def test_a_model_answers_the_checks_of_the_caption(server: RewardServer) -> None:
    name = f"openai:{server.url}/v1#ears"
    check_reward(name)
    server.says_yes = lambda question, audio: 0.75 if np.abs(audio).max() > 0.1 and "bell rings" in question else 0.125
    loaded = load_reward(name)
    assert isinstance(loaded, Reward)
    assert (loaded.name, loaded.checkpoint) == (name, "org/ears-7b f1")
    # Presence of the dog, of the bell, their order, and nothing else, which must be answered with no.
    np.testing.assert_allclose(loaded([CAPTION] * 2, [LOUD, QUIET], 16_000), [(0.125 + 0.75 + 0.75 + 0.25) / 4, 5 / 16])


def test_a_question_is_one_request_with_the_audio(server: RewardServer) -> None:
    asking = reward(server)
    server.bodies.clear()
    asking([CAPTION], [LOUD], 16_000)
    assert sorted(body["messages"][1]["content"][1]["text"] for body in server.bodies) == sorted(
        check.question for check in caption_checks(CAPTION)
    )
    body = server.bodies[0]
    assert (body["model"], body["max_tokens"], body["logprobs"], body["top_logprobs"]) == ("ears", 1, True, 20)
    heard = body["messages"][1]["content"][0]
    assert (heard["type"], heard["input_audio"]["format"]) == ("input_audio", "wav")
    np.testing.assert_allclose(decoded(heard["input_audio"]["data"]), LOUD[:1].T, atol=1e-4)


def test_the_model_may_write_the_checks_itself_once_for_each_caption(server: RewardServer) -> None:
    asking = reward(server, "?checks=model")
    server.bodies.clear()
    server.says_yes = lambda question, audio: {"Is there a dog?": 0.75, "Is it quiet otherwise?": 0.25}[question]
    np.testing.assert_allclose(asking([CAPTION] * 2, [LOUD, QUIET], 16_000), [0.5, 0.5])
    asked = [body["messages"][1]["content"] for body in server.bodies]
    assert [content for content in asked if isinstance(content, str)] == [CAPTION]
    server.written = "I cannot."
    with pytest.raises(RewardError, match="wrote 0 checks, not 1 to"):
        asking(["another"], [LOUD], 16_000)


def test_a_model_that_the_server_lacks_is_told_with_those_that_it_has(server: RewardServer) -> None:
    server.model = "eyes"
    with pytest.raises(RewardError, match=r"/v1 has no model 'ears', but: other, eyes$"):
        reward(server)


def answer(*tokens: tuple[Any, Any], **more: Any) -> str:
    likeliest = [{"token": token, "logprob": logprob} for token, logprob in tokens]
    content = {"choices": [{"logprobs": {"content": [{"top_logprobs": likeliest}]}}]}
    return json.dumps({"model": "ears", "system_fingerprint": "f1", **content, **more})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (answer(("<think>", -0.01), ("yes", -9.0)), "answers neither yes nor no: is it a model that thinks first"),
        (answer(), "answers neither yes nor no"),
        (answer(("yes", 2.0)), "a log-probability of 2"),
        (answer(("yes", "high")), "without the logprobs of its first token"),
        (answer(choices=[]), "without the logprobs"),
        (answer(choices=[{"message": {"content": "yes"}, "logprobs": None}]), "without the logprobs"),
    ],
)
def test_an_answer_that_says_neither_is_no_score(server: RewardServer, text: str, message: str) -> None:
    asking = reward(server)
    server.faults.append(saying(text))
    with pytest.raises(RewardError, match=message):
        asking([CAPTION], [LOUD], 16_000)


def test_a_model_that_takes_no_audio_is_refused_before_a_run(server: RewardServer) -> None:
    server.faults.extend([None, status(400)])
    with pytest.raises(RewardError, match=r"/v1/chat/completions refuses the request \(400\)"):
        reward(server)


@pytest.mark.parametrize("changed", [{"model": "ears-2"}, {"fingerprint": "f2"}])
def test_answers_of_another_model_are_refused(server: RewardServer, changed: dict[str, str]) -> None:
    asking = reward(server)
    vars(server).update(changed)
    with pytest.raises(WeightsChangedError, match=r"now, and was org/ears-7b f1"):
        asking([CAPTION], [LOUD], 16_000)

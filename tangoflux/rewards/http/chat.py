"""An audio language model behind an OpenAI-compatible server (vLLM, for one) as a reward.

It is asked the checks of a caption, one a request, with the audio. A check's score is the probability of the right
answer: the first token's probability of yes against that of no, as in Resonate (arXiv 2603.11661) and AnyAudio-Judge
(arXiv 2606.03116). The reward is the mean over the checks, so that partly right audio beats audio that is all wrong.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from tangoflux.errors import RewardError, WeightsChangedError
from tangoflux.rewards.http.address import Address
from tangoflux.rewards.http.checks import MAX_CHECKS, Check, caption_checks
from tangoflux.rewards.http.client import PATIENT, JsonClient, Limits, shown

TOP_LOGPROBS = 20
"""The most that servers return, OpenAI's and vLLM's by default."""

LEAST_PROBABILITY = 0.05
"""Of yes and no together: with less, the model was about to say something else, and their ratio means nothing."""

ANSWERER = (
    "You hear a recording and answer a question about it with one word, yes or no. Judge by what you hear, not by what "
    "is likely. What you cannot hear clearly is not there."
)
QUESTIONER = (
    "You write checks of audio recordings. The user says what a recording should contain. Answer with questions that "
    "a listener can answer with yes or no, one a line and nothing else: one for each sound, each number, each order of "
    "two sounds, and whether there is nothing else. Word each so that yes means that the recording is right."
)
PROBE = "Is the recording silent?"

Message = Mapping[str, Any]


class ChatReward:
    """Scores in [0, 1].

    Attributes:
        name: the address.
        checkpoint: what the server says of the model: the name or path it was loaded from, and where it names one its
            fingerprint. An answer that names other ones is refused.
    """

    def __init__(self, address: Address, name: str, limits: Limits = PATIENT) -> None:
        """Asks the server for the model, and the model a question about a second of silence.

        Raises:
            RewardError: the server does not answer, does not have the model, or the model does not take audio or does
                not answer with yes or no.
        """
        self.name, self._url, self._model = name, address.url.rstrip("/"), address.model or ""
        self._client = JsonClient(limits)
        self._asks_for_checks = address.model_checks
        self._known_checks: dict[str, list[Check]] = {}
        source = self._source()
        [reply] = self._post([self._question(_wav(np.zeros((1, 16_000), np.float32), 16_000), PROBE)])
        self._probability(reply)
        self._identity = _identity(reply)
        self.checkpoint = " ".join([source, *(part for part in self._identity if part != self._model)])

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        """Mean probabilities (n,) of the right answers to the checks of each prompt; see ``Reward``.

        Raises:
            RewardError: a request failed after all attempts, or its answer is neither yes nor no.
            WeightsChangedError: the server has another model than before.
        """
        checks = [self._checks(prompt) for prompt in prompts]
        bodies: list[Message] = []
        for waveform, of_prompt in zip(waveforms, checks, strict=True):
            audio = _wav(waveform, sample_rate_hz)
            bodies += [self._question(audio, check.question) for check in of_prompt]
        yes = iter([self._probability(reply) for reply in self._ask(bodies)])
        return np.array([_mean(of_prompt, yes) for of_prompt in checks], np.float64)

    def _source(self) -> str:
        """What the server says that the model was loaded from."""
        listed = self._client.get(f"{self._url}/models").get("data")
        models = [model for model in listed if isinstance(model, dict)] if isinstance(listed, list) else []
        for model in models:
            if model.get("id") == self._model:
                return shown(str(model.get("root") or self._model))
        served = shown(", ".join(str(model.get("id")) for model in models))
        raise RewardError(f"{self._url} has no model {self._model!r}, but: {served or 'none'}")

    def _ask(self, bodies: Sequence[Message]) -> list[dict[str, Any]]:
        """The answers of the model that was there before."""
        replies = self._post(bodies)
        for identity in map(_identity, replies):
            if identity != self._identity:
                raise WeightsChangedError(f"{self.name} is {' '.join(identity)} now, and was {self.checkpoint}")
        return replies

    def _post(self, bodies: Sequence[Message]) -> list[dict[str, Any]]:
        return self._client.post(f"{self._url}/chat/completions", bodies)

    def _question(self, audio: str, question: str) -> Message:
        heard = {"type": "input_audio", "input_audio": {"data": audio, "format": "wav"}}
        messages = [
            {"role": "system", "content": ANSWERER},
            {"role": "user", "content": [heard, {"type": "text", "text": question}]},
        ]
        # At temperature 0 some servers give all tokens but one no probability. Nothing is read from the sampled token.
        request = {"max_tokens": 1, "temperature": 1.0, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return {"model": self._model, "messages": messages, **request}

    def _probability(self, reply: Mapping[str, Any]) -> float:
        """The probability of yes, of yes and no."""
        words = {"yes": 0.0, "no": 0.0}
        for token, probability in self._first_token(reply):
            word = token.strip(" \t\r\n▁Ġ.,!\"'*").lower()
            if word in words:
                words[word] += probability
        total = sum(words.values())
        if not total >= LEAST_PROBABILITY:
            raise RewardError(f"{self.name} answers neither yes nor no: is it a model that thinks first?")
        return words["yes"] / total

    def _first_token(self, reply: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        """The likeliest first tokens of an answer with their probabilities."""
        try:
            likeliest = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            tokens = [(str(entry["token"]), float(entry["logprob"])) for entry in likeliest]
        except (KeyError, IndexError, TypeError, ValueError, OverflowError):
            raise RewardError(f"{self.name} answers without the logprobs of its first token") from None
        for token, logprob in tokens:
            if not logprob <= 1e-3:
                raise RewardError(f"{self.name} answers with a log-probability of {logprob:g}")
            yield token, math.exp(logprob)

    def _checks(self, prompt: str) -> list[Check]:
        if not self._asks_for_checks:
            return caption_checks(prompt)
        if prompt not in self._known_checks:
            self._known_checks[prompt] = self._written_checks(prompt)
        return self._known_checks[prompt]

    def _written_checks(self, prompt: str) -> list[Check]:
        messages = [{"role": "system", "content": QUESTIONER}, {"role": "user", "content": prompt}]
        [reply] = self._ask([{"model": self._model, "messages": messages, "max_tokens": 600, "temperature": 0.0}])
        try:
            lines = [line.strip(" -*0123456789.)") for line in reply["choices"][0]["message"]["content"].splitlines()]
        except (KeyError, IndexError, TypeError, AttributeError):
            raise RewardError(f"{self.name} answers without a message") from None
        questions = [line for line in lines if line.endswith("?")]
        if not 0 < len(questions) <= MAX_CHECKS:
            raise RewardError(f"{self.name} wrote {len(questions)} checks, not 1 to {MAX_CHECKS}")
        return [Check(question) for question in questions]


def _identity(reply: Mapping[str, Any]) -> tuple[str, ...]:
    """What an answer says of the model that gave it: its name, and the fingerprint where the server has one."""
    return tuple(shown(str(reply[key])) for key in ("model", "system_fingerprint") if reply.get(key))


def _mean(checks: Sequence[Check], yes: Iterator[float]) -> float:
    right = [next(yes) if check.yes else 1.0 - next(yes) for check in checks]
    return math.fsum(right) / len(right)


def _wav(waveform: NDArray[np.float32], sample_rate_hz: int) -> str:
    """A (channels, samples) waveform as a 16-bit WAV file in base64. Mono, as servers differ in what stereo becomes."""
    file = io.BytesIO()
    mono = np.clip(np.nan_to_num(waveform).mean(axis=0), -1.0, 1.0)
    soundfile.write(file, mono, sample_rate_hz, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode("ascii")

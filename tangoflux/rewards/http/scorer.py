"""A reward that a server computes, by the protocol that ``docs/rewards.md`` describes."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from tangoflux.errors import RewardError, WeightsChangedError
from tangoflux.rewards.http.client import PATIENT, JsonClient, Limits

BATCH = 8
"""Most waveforms of a request."""

MAX_CHECKPOINT_CHARS = 200


class HttpReward:
    """Scores by POST requests of up to ``BATCH`` waveforms, several of them in flight.

    Attributes:
        name: the address.
        checkpoint: what the server named when this object was made. An answer that names another one is refused.
    """

    def __init__(self, url: str, limits: Limits = PATIENT) -> None:
        """Asks the server, with a request without waveforms, for its checkpoint.

        Raises:
            RewardError: the server does not answer as the protocol says.
        """
        self.name = url
        self._client = JsonClient(limits)
        [reply] = self._client.post(url, [_request([], [], 16_000)])
        _scores(url, reply, 0)
        self.checkpoint = _checkpoint(url, reply)

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        """Scores (n,), NaN where the server has none; see ``Reward``.

        Raises:
            RewardError: a request failed after all attempts, or was answered otherwise than the protocol says.
            WeightsChangedError: the server has other weights than before.
        """
        starts = range(0, len(waveforms), BATCH)
        batches = [slice(start, start + BATCH) for start in starts]
        bodies = [_request(prompts[batch], waveforms[batch], sample_rate_hz) for batch in batches]
        scores = np.empty(len(waveforms))
        for batch, reply in zip(batches, self._client.post(self.name, bodies), strict=True):
            if (found := _checkpoint(self.name, reply)) != self.checkpoint:
                raise WeightsChangedError(f"{self.name} has the weights {found!r} now, and had {self.checkpoint!r}")
            scores[batch] = _scores(self.name, reply, len(waveforms[batch]))
        return scores


def _request(prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int) -> dict[str, Any]:
    audio = [base64.b64encode(_flac(waveform, sample_rate_hz)).decode("ascii") for waveform in waveforms]
    return {"prompts": list(prompts), "audio": audio, "audio_format": "flac", "sample_rate_hz": sample_rate_hz}


def _flac(waveform: NDArray[np.float32], sample_rate_hz: int) -> bytes:
    """24 bits: with 16, a log-mel of quiet audio shows the rounding (a CLAP score differed by 0.007)."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1.0, 1.0).T, sample_rate_hz, format="FLAC", subtype="PCM_24")
    return file.getvalue()


def _checkpoint(url: str, reply: Mapping[str, Any]) -> str:
    value = reply.get("checkpoint")
    if not (isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_CHECKPOINT_CHARS):
        raise RewardError(f'{url} does not say which weights it has: its answer needs "checkpoint", a short text')
    return value


def _scores(url: str, reply: Mapping[str, Any], count: int) -> NDArray[np.float64]:
    values = reply.get("scores")
    if not isinstance(values, list) or len(values) != count:
        found = f"{len(values)} scores" if isinstance(values, list) else 'no list "scores"'
        raise RewardError(f"{url} answers with {found} for {count} waveforms")
    return np.array([_number(url, value) for value in values], np.float64)


def _number(url: str, value: object) -> float:
    """A score; NaN for null, and for a number that is too large to be finite."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RewardError(f"{url} answers with a score that is no number but {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        return math.nan

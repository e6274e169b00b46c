"""A request's way: checked against the limits, through the engine, and back as audio. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actors.storage.object_store import ObjectStorePath
from serve.engine import Engine, FullError, Job, Result
from serve.errors import ApiError, invalid, overloaded
from serve.options import ServeOptions
from serve.policies import BASE, LATEST, PASSING, BusyError, Policies, Resident, Versions
from serve.schemas import GenerateRequest
from tangoflux.errors import ConfigError
from tangoflux.model.layout import find_directory
from tangoflux.model.policy import PolicyConfig
from tangoflux.pipeline import TangoFlux
from tangoflux.rewards import best_first, load_reward
from tangoflux.sampling import SAMPLING_FLOATS
from tangoflux.sampling_params import SamplingParams, uses_bf16
from tangoflux.seeding import derive_seed

logger = logging.getLogger(__name__)

DEFAULT_LENGTH_S = 10.0

MAX_TEXT_TOKENS = 512
"""Of FLAN-T5's tokenizer, as the most that a row can have."""


@dataclass(frozen=True)
class Made:
    """The samples of a request, the best first where they are ranked."""

    version: str
    sample_rate_hz: int
    length_s: float
    seeds: list[int]
    result: Result


class Service:
    """The policies and the engine of one replica.

    Attributes:
        samples: how many it has made.

    Raises:
        CheckpointError, ConfigError, ResourceError: there is no such model or run.
    """

    def __init__(self, options: ServeOptions) -> None:
        torch.set_num_threads(1)  # the engine's steps have more
        self.options, self.samples = options, 0
        self.device = "cuda" if options.replica.num_gpus else "cpu"
        self.policies = Policies(versions_of(options), self.device, options.replica.kept_policies)
        self.policies.look()
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """Made with the first policy, whose sizes say how many rows there may be."""
        if self._engine is None:
            policy = self._latest().policy
            self._engine = Engine(
                rows_in(self.options.replica.batch_memory_gb, policy.config),
                self.options.limits.max_waiting,
                lambda: load_reward(self.options.reward, self.device),
                uses_bf16(self.options.replica.precision, self.device),
                self.options.replica.threads if self.device == "cpu" else 1,
            )
        return self._engine

    @property
    def is_miniature(self) -> bool:
        """Whether what is served is a miniature."""
        return self._latest().autoencoder.config.front is not None

    @property
    def max_duration_s(self) -> float:
        """Longest audio."""
        longest, allowed = self._latest().policy.config.max_duration, self.options.limits.max_seconds
        return min(longest, allowed or longest)

    @property
    def max_samples(self) -> int:
        """Most samples of a request, which all fly together."""
        return min(self.options.limits.max_samples, self.engine.most_rows)

    async def generate(
        self, request: GenerateRequest, ranked: bool, on_step: Callable[[int], None] = lambda step: None
    ) -> Made:
        """Serves a request; cancelling it frees its rows.

        Args:
            ranked: whether samples get rewards even where none are chosen among.

        Raises:
            ApiError: it is not served.
        """
        resident = await self._resident(request.model)
        length_s = self._checked_length(request, resident)
        count = self._checked_count(request)
        first = secrets.randbelow(2**32) if request.seed is None else request.seed
        seeds = [first + number for number in range(count)]
        job = Job(
            resident,
            self._sample_request(request, resident, length_s, seeds),
            SamplingParams(self.steps_of(request), request.guidance_scale, request.negative_prompt),
            ranked=ranked or count > request.n,
            exact=request.exact,
            on_step=on_step,
        )
        if self.options.log_prompts:
            logger.info("prompt %r, policy %s, seed %d", request.input, resident.version, first)
        try:
            result = await asyncio.wrap_future(self.engine.submit(job))
        except FullError as error:
            raise overloaded(f"{error}; come back", self.options.limits.retry_after_s) from None
        self.samples += count
        kept = _best(result, request.n)
        rate = resident.autoencoder.sample_rate_hz
        return Made(resident.version, rate, length_s, [seeds[index] for index in kept], _chosen(result, kept))

    def steps_of(self, request: GenerateRequest) -> int:
        """Euler steps of a request that may leave them open."""
        return request.num_inference_steps or min(SamplingParams.num_steps, self.options.limits.max_steps)

    def describe(self) -> dict[str, Any]:
        """What ``PolicyList`` says."""
        latest, figures = self._latest(), self.policies.figures
        known = self.policies.known() or [latest.version]
        return {
            "latest": latest.version,
            "base": known[0],
            "miniature": self.is_miniature,
            "reward_model": self.options.reward,
            "sample_rate": latest.autoencoder.sample_rate_hz,
            "max_duration": self.max_duration_s,
            "limits": self.options.limits.model_dump() | {"max_samples": self.max_samples},
            "policies": [
                {
                    "version": name,
                    "resident": self.policies.is_resident(name),
                    "refused": self.policies.refused.get(name),
                    **figures.get(name, {}),
                }
                for name in known
            ],
        }

    def health(self) -> dict[str, Any]:
        """What ``Health`` says."""
        latest = self.policies.latest
        sampling, waiting = self._engine.load() if self._engine else (0, 0)
        return {
            "status": "ok" if latest else "starting",
            "version": latest.version if latest else None,
            "sampling": sampling,
            "waiting": waiting,
            "refused": dict(self.policies.refused),
            "problem": self.policies.problem,
        }

    @property
    def is_fit(self) -> bool:
        """Whether requests can be served, now or with the first policy."""
        return self._engine is None or self._engine.is_fit

    def close(self) -> None:
        """Ends the engine's threads."""
        if self._engine:
            self._engine.close()

    def _latest(self) -> Resident:
        if self.policies.latest is None:
            raise overloaded("no policy is loaded yet; see /health", self.options.limits.retry_after_s, "starting")
        return self.policies.latest

    async def _resident(self, name: str) -> Resident:
        self._latest()
        retry_after_s = self.options.limits.retry_after_s
        try:
            future = self.policies.get(name)
        except BusyError as error:
            raise overloaded(f"{error}; come back", retry_after_s) from None
        if future is None:
            there = ", ".join([LATEST, BASE, *self.policies.known()[-20:]])
            raise ApiError(
                404,
                "not_found_error",
                f"there is no policy {name[:64]!r}; there are: {there}",
                param="model",
                code="model_not_found",
            )
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except PASSING as error:
            raise overloaded(f"{name} cannot be loaded now: {error}", retry_after_s) from None
        except Exception as error:  # it is refused from now on
            raise ApiError(404, "not_found_error", str(error), param="model", code="model_not_found") from None

    def _checked_length(self, request: GenerateRequest, resident: Resident) -> float:
        most = self.max_duration_s
        length_s = min(DEFAULT_LENGTH_S, most) if request.audio_length is None else request.audio_length
        # Rounded to nothing it would be no audio.
        least = 1 / resident.autoencoder.sample_rate_hz
        if not least <= length_s <= most:
            raise invalid(f"audio_length {length_s:g} must be above 0 and at most {most:g} seconds", "audio_length")
        return length_s

    def _checked_count(self, request: GenerateRequest) -> int:
        """How many samples are to be made."""
        limits = self.options.limits
        for name, text in (("input", request.input), ("negative_prompt", request.negative_prompt)):
            if len(text) > limits.max_prompt_chars:
                raise invalid(f"{name} has {len(text)} characters; {limits.max_prompt_chars} are allowed", name)
        if not request.input.strip():
            raise invalid("input is blank", "input")
        if self.steps_of(request) > limits.max_steps:
            raise invalid(f"num_inference_steps must be at most {limits.max_steps}", "num_inference_steps")
        for name, number in (("n", request.n), ("best_of", request.best_of or request.n)):
            if number > self.max_samples:
                raise invalid(f"{name} must be at most {self.max_samples}", name)
        if request.best_of is not None and request.best_of < request.n:
            raise invalid(f"best_of {request.best_of} must be at least n, {request.n}", "best_of")
        return request.best_of or request.n

    def _sample_request(self, request: GenerateRequest, resident: Resident, length_s: float, seeds: list[int]) -> Any:
        # The noise is that of `tangoflux generate` with the same prompt and seed.
        noise = [derive_seed(seed, "generate", request.input, 0) for seed in seeds]
        return TangoFlux(resident.policy, resident.autoencoder).request(request.input, length_s, noise)


def versions_of(options: ServeOptions) -> Versions:
    """Where the policies come from.

    Raises:
        CheckpointError, ConfigError: there is no such model or run.
    """
    if options.run_dir is None:
        return Versions(find_directory(options.policy), is_run=False)
    if isinstance(options.run_dir, ObjectStorePath):
        return Versions(options.run_dir, is_run=True)
    directory = options.run_dir.expanduser().resolve()
    if not directory.is_dir():
        raise ConfigError(f"--run-dir {options.run_dir} is not a directory; start the run first, or pass --policy")
    return Versions(Path(directory), is_run=True)


def rows_in(memory_gb: float, config: PolicyConfig) -> int:
    """Rows that can be sampled at once in so much memory, each as long as can be and guided."""
    tokens = config.audio_seq_len + MAX_TEXT_TOKENS + 1
    width = config.num_attention_heads * config.attention_head_dim
    return max(1, int(memory_gb * 1e9 / (2 * 4 * tokens * width * SAMPLING_FLOATS)))


def _best(result: Result, count: int) -> list[int]:
    """The samples that are given, the best first; one without a reward comes last, since a failure is no score."""
    rewards = result.rewards
    if rewards is None or count == len(rewards):
        return list(range(count))
    return best_first(rewards)[:count]


def _chosen(result: Result, kept: list[int]) -> Result:
    rewards = [result.rewards[index] for index in kept] if result.rewards else None
    return Result([result.waveforms[index] for index in kept], rewards, result.timing)

"""What the API does, without HTTP: checks a request against the limits and runs it through the engine."""

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
from serve.engine.batches import Engine, QueueFullError
from serve.engine.job import Job, Result, Waveform
from serve.engine.policies import BASE, LATEST, TRANSIENT_ERRORS, BusyError, Policies, Resident, Versions
from serve.errors import ApiError, invalid, overloaded
from serve.options import ServeOptions
from serve.schemas import GenerateRequest
from tangoflux.errors import ConfigError
from tangoflux.model.layout import find_directory
from tangoflux.model.policy import PolicyConfig
from tangoflux.pipeline import TangoFlux
from tangoflux.rewards import best_first, load_reward
from tangoflux.sampling import SAMPLING_FLOATS
from tangoflux.sampling_params import MIN_DURATION_S, SamplingParams, uses_bf16
from tangoflux.seeding import derive_seed

logger = logging.getLogger(__name__)

DEFAULT_LENGTH_S = 10.0

MAX_TEXT_TOKENS = 512
"""The maximum of FLAN-T5's tokenizer."""


@dataclass(frozen=True)
class Sampled:
    """A sample with its seed and its reward: NaN where there is none, None where none was asked for."""

    waveform: Waveform
    seed: int
    reward: float | None


@dataclass(frozen=True)
class Generated:
    """The samples of a request; of ``best_of`` samples the best, in order.

    Attributes:
        version: the policy's.
        timing: seconds by stage.
    """

    version: str
    sample_rate_hz: int
    length_s: float
    samples: list[Sampled]
    timing: dict[str, float]


class Service:
    """The policies and the engine of one replica.

    Attributes:
        samples: number of samples generated.

    Raises:
        CheckpointError, ConfigError, ResourceError: there is no such model or run.
    """

    def __init__(self, options: ServeOptions) -> None:
        torch.set_num_threads(1)  # the engine's stepping threads have their own number
        self.options, self.samples = options, 0
        self.device = "cuda" if options.replica.num_gpus else "cpu"
        self.policies = Policies(versions_of(options), self.device, options.replica.kept_policies)
        self.policies.refresh()
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine, created with the first policy, whose sizes limit the number of rows."""
        if self._engine is None:
            policy = self._latest().policy
            self._engine = Engine(
                max_rows(self.options.replica.batch_memory_gb, policy.config),
                self.options.limits.max_waiting,
                lambda: load_reward(self.options.reward, self.device, self.options.reward_combination),
                self.options.limits.max_reward_s,
                uses_bf16(self.options.replica.precision, self.device),
                self.options.replica.threads if self.device == "cpu" else 1,
            )
        return self._engine

    @property
    def max_duration_s(self) -> float:
        """The longest audio, in seconds, by policy and options."""
        policy_s, allowed_s = self._latest().policy.config.max_duration, self.options.limits.max_seconds
        return min(policy_s, allowed_s or policy_s)

    @property
    def max_samples(self) -> int:
        """The most samples per request, which are all sampled at the same time."""
        return min(self.options.limits.max_samples, self.engine.max_rows)

    async def generate(
        self, request: GenerateRequest, ranked: bool, on_step: Callable[[int], None] = lambda step: None
    ) -> Generated:
        """Serves a request; cancelling it frees its rows.

        Args:
            ranked: whether samples get rewards even without ``best_of``.

        Raises:
            ApiError: the request is refused or failed.
        """
        resident = await self._resident(request.model)
        length_s = self._checked_length(request)
        count = self._checked_count(request)
        first = secrets.randbelow(2**32) if request.seed is None else request.seed
        # The noise is that of `tangoflux generate` with the same prompt and seed.
        noise = [derive_seed(first + k, "generate", request.input, 0) for k in range(count)]
        job = Job(
            resident,
            TangoFlux(resident.policy, resident.autoencoder).request(request.input, length_s, noise),
            SamplingParams(self.steps_of(request), request.guidance_scale, request.negative_prompt),
            ranked=ranked or count > request.n,
            exact=request.exact,
            on_step=on_step,
        )
        if self.options.log_prompts:
            logger.info("prompt %r, policy %s, seed %d", request.input, resident.version, first)
        try:
            result = await asyncio.wrap_future(self.engine.submit(job))
        except QueueFullError as error:
            raise self._overloaded(f"{error}; retry later") from None
        self.samples += count
        rate, timing = resident.autoencoder.sample_rate_hz, vars(result.timing)
        return Generated(resident.version, rate, length_s, _best(result, first, request.n), timing)

    def steps_of(self, request: GenerateRequest) -> int:
        """The number of Euler steps of a request, which may leave it open."""
        return request.num_inference_steps or self._default_steps

    def describe(self) -> dict[str, Any]:
        """The values of ``PolicyList``."""
        latest, metrics = self._latest(), self.policies.metrics
        defaults = {
            "audio_length": self._default_length_s,
            "num_inference_steps": self._default_steps,
            "guidance_scale": SamplingParams.guidance_scale,
        }
        known = self.policies.known() or [latest.version]
        return {
            "latest": latest.version,
            "base": known[0],
            "miniature": latest.autoencoder.config.front is not None,
            "reward_model": self.options.reward_model,
            "sample_rate": latest.autoencoder.sample_rate_hz,
            "max_duration": self.max_duration_s,
            "limits": self.options.limits.model_dump() | {"max_samples": self.max_samples},
            "defaults": defaults,
            "policies": [
                {
                    "version": name,
                    "resident": self.policies.is_resident(name),
                    "refused": self.policies.refused.get(name),
                    **metrics.get(name, {}),
                }
                for name in known
            ],
        }

    def health(self) -> dict[str, Any]:
        """The values of ``Health``."""
        latest = self.policies.latest
        sampling, waiting = self._engine.load() if self._engine else (0, 0)
        return {
            "status": "ok" if latest else "starting",
            "version": latest.version if latest else None,
            "sampling": sampling,
            "waiting": waiting,
            "refused": dict(self.policies.refused),
            "problem": self.policies.problem or (self._engine.problem if self._engine else ""),
        }

    @property
    def is_healthy(self) -> bool:
        """Whether the engine works, or does not exist yet."""
        return self._engine is None or self._engine.is_healthy

    def close(self) -> None:
        """Ends the engine's threads."""
        if self._engine:
            self._engine.close()

    @property
    def _default_steps(self) -> int:
        return min(SamplingParams.num_steps, self.options.limits.max_steps)

    @property
    def _default_length_s(self) -> float:
        return min(DEFAULT_LENGTH_S, self.max_duration_s)

    def _overloaded(self, message: str, code: str = "queue_full") -> ApiError:
        return overloaded(message, self.options.limits.retry_after_s, code)

    def _latest(self) -> Resident:
        if self.policies.latest is None:
            raise self._overloaded("no policy is loaded yet; see /health", "starting")
        return self.policies.latest

    async def _resident(self, name: str) -> Resident:
        self._latest()
        try:
            future = self.policies.get(name)
        except BusyError as error:
            raise self._overloaded(f"{error}; retry later") from None
        if future is None:
            known = ", ".join([LATEST, BASE, *self.policies.known()[-20:]])
            raise _no_policy(f"there is no policy {name[:64]!r}; available: {known}")
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except TRANSIENT_ERRORS as error:
            raise self._overloaded(f"{name} cannot be loaded now: {error}") from None
        except Exception as error:  # the version is refused from now on
            raise _no_policy(str(error)) from None

    def _checked_length(self, request: GenerateRequest) -> float:
        longest = self.max_duration_s
        length_s = self._default_length_s if request.audio_length is None else request.audio_length
        if not MIN_DURATION_S <= length_s <= longest:
            message = f"audio_length {length_s:g} must be from {MIN_DURATION_S:g} to {longest:g} seconds"
            raise invalid(message, "audio_length")
        return length_s

    def _checked_count(self, request: GenerateRequest) -> int:
        """The number of samples to generate."""
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


def versions_of(options: ServeOptions) -> Versions:
    """The source of the policies.

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


def max_rows(memory_gb: float, config: PolicyConfig) -> int:
    """Number of rows that can be sampled at once in this much memory, each of full length and with guidance."""
    tokens = config.audio_seq_len + MAX_TEXT_TOKENS + 1
    width = config.num_attention_heads * config.attention_head_dim
    return max(1, int(memory_gb * 1e9 / (2 * 4 * tokens * width * SAMPLING_FLOATS)))


def _best(result: Result, first_seed: int, count: int) -> list[Sampled]:
    """The ``count`` best samples, in order; all samples in the order of their seeds if none is left out."""
    rewards = result.rewards or [None] * len(result.waveforms)
    samples = [Sampled(wave, first_seed + k, rewards[k]) for k, wave in enumerate(result.waveforms)]
    if result.rewards is None or count == len(samples):
        return samples
    return [samples[index] for index in best_first(result.rewards)[:count]]


def _no_policy(message: str) -> ApiError:
    return ApiError(404, "not_found_error", message, param="model", code="model_not_found")

"""Measures the endpoint under load, next to the bare model called one request at a time in the same run."""

from __future__ import annotations

import asyncio
import io
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from jobs.options.bench import LoadOptions
from tangoflux.errors import ConfigError, ResourceError
from tangoflux.pipeline import TangoFlux
from tangoflux.sampling import sample_latents
from tangoflux.sampling_params import SamplingParams

PROMPT = "a dog barks twice then a bell rings"
SECONDS, STEPS, SHORT, LONG_CLIENTS, BATCH = 3.0, 50, 4, 8, 16
MIXED_STEPS, MIXED_SECONDS = (8, 12, 25, 50), (1.0, 2.0, 3.0, 4.0)
START_TIMEOUT_S = 120.0
LOOPBACK = ("http://127.", "http://localhost", "http://[::1]")
OPEN_SHARE = 0.7
"""Rate of the open loop, as a share of the throughput of 16 clients."""


@dataclass(frozen=True)
class Load:
    """What clients measured under a load."""

    seconds: float
    latencies: list[float]
    queued: list[float]
    refused: int

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds

    def __str__(self) -> str:
        points = quantiles(self.latencies, n=100) if len(self.latencies) > 1 else [*self.latencies] * 99
        return (
            f"{self.throughput:6.2f} answers/s"
            f"   p50 {points[49]:5.2f}   p95 {points[94]:5.2f}   p99 {points[98]:5.2f} s"
            f"   in queue {1000 * median(self.queued):5.0f} ms   refused {self.refused}"
        )


def run(options: LoadOptions) -> None:
    """Measures and prints."""
    torch.set_num_threads(options.threads)
    model = TangoFlux.from_pretrained(options.policy)
    with _endpoint(options) as url:
        asyncio.run(_wait_until_healthy(url))
        print("one request at a time, 3 s of audio in 50 steps")
        one_bare = min(_bare_seconds(model, 1) for _ in range(5))
        one_served = min(asyncio.run(_latencies(url, 5)))
        times = one_served / one_bare
        print(f"  bare model {1000 * one_bare:.0f} ms, over HTTP {1000 * one_served:.0f} ms ({times:.2f} times)")
        batched = BATCH / min(_bare_seconds(model, BATCH) for _ in range(3))
        print(f"  bare model, {BATCH} at a time: {batched * one_bare:.2f} times the throughput of one at a time")
        same = asyncio.run(_closed(url, BATCH, options.seconds, lambda draw: (STEPS, SECONDS)))
        share = same.throughput / batched
        times = same.throughput * one_bare
        print(f"  {BATCH} clients: {times:.2f} times, {share:.2f} of the bare model's batches\n    {same}")
        short, long = asyncio.run(_short_among_long(url))
        share = short / long
        print(
            f"  a {SHORT}-step request among {LONG_CLIENTS} of {STEPS}: {short:.2f} s, they {long:.2f} s ({share:.2f})"
        )
        ratios = sorted(asyncio.run(_same_seed_ratios(url)))
        print(f"  alone and among others: {ratios[0]:.0f} dB at least, median {median(ratios):.0f} dB (16-bit audio)")
        print("mixed steps and lengths, closed loop")
        for clients in options.clients:
            print(f"  {clients:3} clients {asyncio.run(_closed(url, clients, options.seconds, _mixed))}", flush=True)
        rate = OPEN_SHARE * asyncio.run(_closed(url, BATCH, options.seconds / 3, _mixed)).throughput
        print(f"mixed, open loop, {rate:.2f} requests/s\n  {asyncio.run(_open(url, rate, options.seconds))}")


def _bare_seconds(model: TangoFlux, count: int) -> float:
    requests = [model.request(PROMPT, SECONDS, [seed]) for seed in range(count)]
    start = time.perf_counter()
    groups = sample_latents(model.policy, requests, SamplingParams(STEPS, 3.0))
    model.decode([row for group in groups for row in group], [SECONDS] * count)
    return time.perf_counter() - start


def _mixed(draw: random.Random) -> tuple[int, float]:
    return draw.choice(MIXED_STEPS), draw.choice(MIXED_SECONDS)


async def _ask(client: httpx.AsyncClient, steps: int, seconds: float) -> tuple[float, float] | None:
    """Seconds until the answer, and those in the queue; None if the endpoint was overloaded (503)."""
    start = time.perf_counter()
    body = {"input": PROMPT, "audio_length": seconds, "num_inference_steps": steps, "guidance_scale": 3.0}
    answer = await client.post("/v1/audio/generate", json=body)
    if answer.status_code == 503:
        await asyncio.sleep(float(answer.headers["retry-after"]))
        return None
    answer.raise_for_status()
    queued = re.search(r"queued;dur=([\d.]+)", answer.headers["server-timing"])
    return time.perf_counter() - start, float(queued[1]) / 1000 if queued else 0.0


def client_of(url: str) -> httpx.AsyncClient:
    """A client that uses a proxy of the environment for other machines only, as it could not reach this one.

    Raises:
        ConfigError: httpx cannot use that proxy.
    """
    limits = httpx.Limits(max_connections=None)
    try:
        return httpx.AsyncClient(
            base_url=url, timeout=300, limits=limits, trust_env=not url.lower().startswith(LOOPBACK)
        )
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise ConfigError(f"the proxy of the environment cannot be used: {error}") from None


async def _latencies(url: str, count: int) -> list[float]:
    async with client_of(url) as client:
        answers = [await _ask(client, STEPS, SECONDS) for _ in range(count)]
    return [answer[0] for answer in answers if answer]


async def _closed(url: str, clients: int, seconds: float, work: Callable[[random.Random], tuple[int, float]]) -> Load:
    """Concurrent clients, each of which sends its next request when the last one is answered."""
    start, answers = time.perf_counter(), list[tuple[float, float] | None]()

    async def run_client(number: int) -> None:
        draw = random.Random(number)
        while time.perf_counter() - start < seconds:
            answers.append(await _ask(client, *work(draw)))

    async with client_of(url) as client:
        await asyncio.gather(*(run_client(number) for number in range(clients)))
    return _load(time.perf_counter() - start, answers)


async def _open(url: str, rate: float, seconds: float) -> Load:
    """Requests at random times, whether or not earlier ones are answered."""
    draw, start = random.Random(0), time.perf_counter()
    tasks: list[Awaitable[tuple[float, float] | None]] = []
    async with client_of(url) as client:
        while time.perf_counter() - start < seconds:
            tasks.append(asyncio.create_task(_ask(client, *_mixed(draw))))
            await asyncio.sleep(draw.expovariate(rate))
        answers = await asyncio.gather(*tasks)
    return _load(time.perf_counter() - start, answers)


async def _short_among_long(url: str) -> tuple[float, float]:
    """Seconds of a short request that is sent while long ones run, and the median of the long ones."""
    async with client_of(url) as client:
        long = [asyncio.create_task(_ask(client, STEPS, SECONDS)) for _ in range(LONG_CLIENTS)]
        await asyncio.sleep(0.3)
        short = await _ask(client, SHORT, SECONDS)
        others = [answer[0] for answer in await asyncio.gather(*long) if answer]
    assert short
    return short[0], median(others)


async def _same_seed_ratios(url: str) -> list[float]:
    """Signal-to-noise ratios in dB of requests that run alone, against the same ones all at once."""
    draw = random.Random(0)
    requests = [(_mixed(draw), seed) for seed in range(BATCH)]
    async with client_of(url) as client:
        alone = [await _audio(client, *request) for request in requests]
        together = await asyncio.gather(*(_audio(client, *request) for request in requests))
    # Audio that is equal in all 16 bits counts with the noise of the rounding.
    noise = [max(np.square(one - other).mean(), 1 / 12) for one, other in zip(alone, together, strict=True)]
    return [float(10 * np.log10(np.square(one).mean() / power)) for one, power in zip(alone, noise, strict=True)]


async def _audio(client: httpx.AsyncClient, work: tuple[int, float], seed: int) -> NDArray[np.float64]:
    steps, seconds = work
    body = {"input": PROMPT, "audio_length": seconds, "num_inference_steps": steps, "seed": seed}
    answer = (await client.post("/v1/audio/generate", json=body)).raise_for_status()
    samples, _ = soundfile.read(io.BytesIO(answer.content), dtype="int16")
    return samples.astype(np.float64)


def _load(seconds: float, answers: Sequence[tuple[float, float] | None]) -> Load:
    given = [answer for answer in answers if answer]
    latencies, queued = [answer[0] for answer in given], [answer[1] for answer in given]
    return Load(seconds, latencies, queued, len(answers) - len(given))


async def _wait_until_healthy(url: str) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    async with client_of(url) as client:
        while time.monotonic() < until:
            try:
                if (await client.get("/health")).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # it is not listening yet
            await asyncio.sleep(0.5)
    raise ResourceError(f"{url} did not become healthy within {START_TIMEOUT_S:.0f} s")


@contextmanager
def _endpoint(options: LoadOptions) -> Generator[str]:
    """The endpoint of ``--url``, or one that is started for the measurement."""
    if options.url:
        yield options.url
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    script = Path(__file__).parents[2] / "serve" / "run.py"
    command: list[Any] = [sys.executable, script, "--policy", options.policy, "--threads", options.threads]
    process = subprocess.Popen([*map(str, command), "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()

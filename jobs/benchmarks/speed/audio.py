"""Seconds and peak memory of one audio, each measured in a new process without other models in memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from jobs.benchmarks.speed.rollouts import our_run, published_run
from jobs.benchmarks.speed.settings import OURS, PUBLISHED, Settings, published_model, quiet
from jobs.benchmarks.speed.sizes import random_model
from jobs.benchmarks.speed.timing import Laps, Measured, Run, Side, clock, count_flop, laps_of
from tangoflux.errors import ResourceError
from tangoflux.model.policy import PolicyConfig
from tangoflux.pipeline import TangoFlux
from tangoflux.sampling import SampleRequest

SHARES = (1 / 3, 1)
"""Durations as shares of the model's longest: 10 s and 30 s of the paper's."""

PROCESS = Path("/proc/self")
"""Where Linux reports the peak memory of a process."""


def measure_audio(settings: Settings, say: Callable[[str], None]) -> list[Measured]:
    """Measures the published code and ours at each duration.

    Raises:
        ResourceError: the system does not report a process's peak memory.
    """
    if settings.device == "cpu" and not PROCESS.exists():
        raise ResourceError("only Linux reports a process's peak memory: leave audio out with --only rollouts training")
    longest = PolicyConfig.from_dict(settings.model.policy).max_duration
    measured: list[Measured] = []
    for duration_s in (share * longest for share in SHARES):
        theirs = Side(f"{PUBLISHED}, {duration_s:.2g} s", "s", 1, "fp32")
        ours = Side(f"{OURS}, {duration_s:.2g} s", "s", 1, settings.precision, (theirs.name,))
        pair = [Measured(theirs, {}, []), Measured(ours, {}, [])]
        for number in range(1, settings.rounds + 1):
            for result in pair:
                tflop, seconds, peak_gb = _in_new_process(settings, result is pair[1], duration_s)
                say(f"{result.side.name}: round {number} of {settings.rounds}: {seconds:.2f} s, {peak_gb:.2f} GB")
                result.laps.setdefault("audio", Laps(tflop, [])).seconds.append(seconds)
                result.peak_gb.append(peak_gb)
        measured += pair
    return measured


def _in_new_process(settings: Settings, ours: bool, duration_s: float) -> tuple[float, float, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(one_audio, settings, ours, duration_s).result()


def one_audio(settings: Settings, ours: bool, duration_s: float) -> tuple[float, float, float]:
    """TFLOP, seconds and peak memory in GB (weights included) of the second audio that this process generates."""
    quiet()
    model = random_model(settings.model).to(settings.device)
    run = _our_audio(model, settings, duration_s) if ours else _published_audio(model, settings, duration_s)
    tflop = count_flop(run)["waveforms"] / 1e12
    if settings.compiled and ours:
        model.policy.transformer.compile_repeated_blocks()
        run(lambda part: None)
    _reset_peak(settings.device)
    seconds = laps_of(run, clock(settings.device))["waveforms"]
    return tflop, seconds, _peak_gb(settings.device)


def _our_audio(model: TangoFlux, settings: Settings, duration_s: float) -> Run:
    request = SampleRequest("a dog barks", duration_s, model.policy.config.audio_seq_len, (0,))
    return our_run(model, [request], settings)


def _published_audio(model: TangoFlux, settings: Settings, duration_s: float) -> Run:
    """The published command decodes all frames and then cuts the waveform."""
    published, frames = published_model(model.policy, settings.repository), model.policy.config.audio_seq_len
    model.policy.transformer = None
    return published_run(published, model.autoencoder.oobleck, duration_s, frames, 1, settings.num_steps)


def _reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        (PROCESS / "clear_refs").write_text("5")  # resets VmHWM, see proc(5)


def _peak_gb(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    [line] = [line for line in (PROCESS / "status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024 / 1e9

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from serve.engine.batches import Engine, QueueFullError
from serve.engine.job import Job, Result
from serve.engine.policies import Resident
from tangoflux.pipeline import TangoFlux
from tangoflux.sampling_params import SamplingParams
from tests.tiny import tiny_model


class Loudness:
    """A reward: how loud it is."""

    name, checkpoint = "loudness", ""

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        return np.array([float(np.abs(waveform).mean()) for waveform in waveforms])


@pytest.fixture(scope="module")
def model() -> TangoFlux:
    return tiny_model()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(max_rows=8, max_waiting=4, load_reward=Loudness, threads=2)
    yield engine
    engine.close()


def job(model: TangoFlux, seeds: Sequence[int] = (1,), steps: int = 4, prompt: str = "a dog", **more: Any) -> Job:
    resident = Resident("base", model.policy, model.autoencoder)
    return Job(resident, model.request(prompt, 0.5, seeds), SamplingParams(steps, 3.0), **more)


def snr_db(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(10 * np.log10((expected**2).mean() / ((found - expected) ** 2).mean().clip(1e-30)))


def alone(model: TangoFlux, job: Job) -> NDArray[np.float32]:
    engine = Engine(max_rows=8, max_waiting=4)
    try:
        return engine.submit(job).result(30).waveforms[0]
    finally:
        engine.close()


def test_a_request_has_the_same_audio_whatever_else_is_served(model: TangoFlux, engine: Engine) -> None:
    expected = alone(model, job(model))
    others = [job(model, (7, 8), steps, "a bell rings twice and a siren wails") for steps in (30, 9)]
    futures = [engine.submit(other) for other in others]
    found = engine.submit(job(model)).result(30).waveforms[0]
    assert snr_db(found, expected) > 60
    assert all(len(future.result(30).waveforms) == 2 for future in futures)


def test_an_exact_request_is_the_same_to_the_last_bit(model: TangoFlux, engine: Engine) -> None:
    expected = alone(model, job(model, exact=True))
    others = [engine.submit(job(model, (7, 8), 30)) for _ in range(2)]
    assert np.array_equal(engine.submit(job(model, exact=True)).result(30).waveforms[0], expected)
    assert not any(other.done() for other in others), "they were running all the time"


def test_a_short_request_does_not_wait_for_long_ones(model: TangoFlux, engine: Engine) -> None:
    order: list[str] = []
    long = engine.submit(job(model, (1, 2, 3), 100))
    long.add_done_callback(lambda _: order.append("long"))
    short = engine.submit(job(model, (4,), 2))
    short.add_done_callback(lambda _: order.append("short"))
    assert (len(long.result(30).waveforms), len(short.result(30).waveforms)) == (3, 1)
    assert order == ["short", "long"]


def test_steps_are_reported_and_every_stage_is_timed(model: TangoFlux, engine: Engine) -> None:
    steps: list[int] = []
    result = engine.submit(job(model, steps=5, on_step=steps.append, ranked=True)).result(30)
    assert steps == [1, 2, 3, 4, 5]
    assert result.rewards == pytest.approx([np.abs(result.waveforms[0]).mean()])
    assert min(vars(result.timing).values()) >= 0 and result.timing.sampling > 0


def test_a_cancelled_request_frees_its_rows_at_the_next_step(model: TangoFlux, engine: Engine) -> None:
    reached = threading.Event()
    future = engine.submit(job(model, tuple(range(8)), 1000, on_step=lambda step: reached.set()))
    assert reached.wait(30) and engine.load() == (8, 0)
    future.cancel()
    engine.submit(job(model)).result(30)
    assert engine.load() == (0, 0)


def test_more_than_may_wait_is_refused_at_once(model: TangoFlux, engine: Engine) -> None:
    reached = threading.Event()
    blocker = engine.submit(job(model, tuple(range(8)), 1000, on_step=lambda step: reached.set()))
    assert reached.wait(30)
    waiting = [engine.submit(job(model, (seed,))) for seed in range(4)]
    with pytest.raises(QueueFullError, match="4 samples are waiting"):
        engine.submit(job(model))
    blocker.cancel()
    assert all(future.result(30).waveforms for future in waiting)


def test_a_request_that_fails_gets_its_error_and_others_continue(model: TangoFlux, engine: Engine) -> None:
    broken = job(model)
    broken.resident = Resident("broken", tiny_model().policy, model.autoencoder)
    broken.resident.policy.transformer = torch.nn.Identity()
    failing, fine = engine.submit(broken), engine.submit(job(model))
    assert fine.result(30).waveforms
    with pytest.raises(TypeError):
        failing.result(30)
    assert engine.load() == (0, 0)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), SystemExit(3), KeyboardInterrupt(), StopIteration()])
@pytest.mark.parametrize(
    "place",
    [
        "serve.engine.batches.start_rows",
        "serve.engine.batches.RunningBatch.__init__",
        "serve.engine.batches.RunningBatch.add",
        "serve.engine.batches.RunningBatch.step",
        "serve.engine.batches.RunningBatch.remove",
        "tangoflux.model.autoencoder.Autoencoder.decode_rows",
        "serve.engine.ranking.score",
    ],
)
def test_whatever_is_raised_in_a_stage_is_the_answer_and_the_engine_continues(
    model: TangoFlux, engine: Engine, place: str, error: BaseException
) -> None:
    async def ask() -> Result:
        return await asyncio.wait_for(asyncio.wrap_future(engine.submit(job(model, ranked=True))), 30)

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(RuntimeError) as failure:
            asyncio.run(ask())
    assert failure.value is error or failure.value.__cause__ is error
    assert asyncio.run(ask()).rewards, "the next one is served"
    assert engine.is_healthy and engine.load() == (0, 0)


def test_an_engine_whose_steps_keep_failing_is_unhealthy_until_one_succeeds(model: TangoFlux, engine: Engine) -> None:
    def fail(step: int) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    for _ in range(4):
        with pytest.raises(RuntimeError):
            engine.submit(job(model, on_step=fail)).result(30)
    assert engine.is_healthy
    with pytest.raises(RuntimeError):
        engine.submit(job(model, on_step=fail)).result(30)
    assert not engine.is_healthy
    engine.submit(job(model)).result(30)
    assert engine.is_healthy


def test_policies_are_sampled_side_by_side_and_freed_with_their_last_row(model: TangoFlux, engine: Engine) -> None:
    other = tiny_model(seed=5)
    first, second = engine.submit(job(model, steps=20)), engine.submit(job(other, steps=20))
    found = [future.result(30).waveforms[0] for future in (first, second)]
    for waveform, policy in zip(found, (model, other), strict=True):
        assert snr_db(waveform, alone(policy, job(policy, steps=20))) > 60
    until = time.monotonic() + 5
    while engine._batches:  # pyright: ignore[reportPrivateUsage]
        assert time.monotonic() < until

"""The engine: requests join and leave the running batches of their policies between Euler steps.

It has threads of its own, none of which another waits for: captions are encoded in one, the rows of all policies are
stepped in the next, finished latents are decoded in others and ranked in the last.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from serve.policies import Resident
from tangoflux.in_flight import Flight, Row, start_rows
from tangoflux.model.policy import Policy
from tangoflux.rewards import Reward, score
from tangoflux.sampling import SampleRequest
from tangoflux.sampling_params import SamplingParams

Waveform = NDArray[np.float32]


MOST_FAILURES = 5
"""Failed steps in a row after which an engine is given up: a GPU may be lost for good."""


class FullError(Exception):
    """As many rows wait as may."""


@dataclass(frozen=True)
class Timing:
    """Seconds of a request: until its first step, from there to its latents, to its waveforms, and to its rewards."""

    queued: float
    sampling: float
    decoding: float
    ranking: float


@dataclass(frozen=True)
class Result:
    """What a job made.

    Attributes:
        waveforms: one a seed, (audio_channels, samples).
        rewards: one a seed, where they were asked for; NaN where there is none.
    """

    waveforms: list[Waveform]
    rewards: list[float] | None
    timing: Timing


@dataclass(eq=False)
class Job:
    """A request on its way through the engine.

    Attributes:
        ranked: whether its samples get rewards.
        exact: whether it is to be computed alone.
        on_step: called in the engine's thread with the steps that are done.
        future: where the result, or the error, appears.
    """

    resident: Resident
    request: SampleRequest
    params: SamplingParams
    ranked: bool = False
    exact: bool = False
    on_step: Callable[[int], None] = lambda step: None
    future: Future[Result] = field(default_factory=Future[Result])
    rows: list[Row] = field(default_factory=list[Row])
    times: list[float] = field(default_factory=lambda: [time.monotonic()])

    def mark(self) -> None:
        """Notes that a stage is over."""
        self.times.append(time.monotonic())

    def fail(self, error: BaseException) -> None:
        """Tells who waits, if somebody still does."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


class Engine:
    """Samples jobs in batches that change between steps.

    Args:
        most_rows: of rows under way; jobs must not have more.
        most_waiting: of rows that are not yet; further jobs are refused.
        reward: makes the reward model when it is first wanted.
        bf16: whether policies compute in bfloat16.
        threads: that step batches, or decode jobs, side by side with an OpenMP thread each; a single batch is stepped
            by a team of so many. One, as is best on a GPU, has all rows in one batch and decodes all that wait
            together. (No more than one team: two on the same cores take twice the time of one, since neither then
            waits actively for its next loop.)
    """

    def __init__(
        self,
        most_rows: int,
        most_waiting: int,
        reward: Callable[[], Reward] | None = None,
        bf16: bool = False,
        threads: int = 1,
    ) -> None:
        self.most_rows, self.most_waiting = most_rows, most_waiting
        self._make_reward, self._reward, self._bf16 = reward, None, bf16
        self._change = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._encoding: set[Job] = set()
        self._flying: list[Job] = []
        self._flights: dict[Policy, Flight] = {}
        self._finished: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._over, self._failures = False, 0
        self._encoder = ThreadPoolExecutor(1, "encode")
        self._ranker = ThreadPoolExecutor(1, "rank")
        self._team, self._stepping = threads, threading.Event()
        self._steppers = ThreadPoolExecutor(threads, "step") if threads > 1 else None
        loops = [self._step_for_ever, *[self._decode_for_ever] * threads]
        self._threads = [threading.Thread(target=loop, name=loop.__name__, daemon=True) for loop in loops]
        self._start()

    def submit(self, job: Job) -> Future[Result]:
        """Takes a job, to be begun in turn. Cancelling the future frees its rows at the next step.

        Raises:
            FullError: there is no room.
        """
        with self._change:
            waiting = sum(len(other.request.seeds) for other in (*self._waiting, *self._encoding))
            room = self.most_waiting + max(0, self.most_rows - self._rows_flying())
            if waiting + len(job.request.seeds) > room:
                raise FullError(f"{waiting} samples wait already")
            self._encoding.add(job)
        self._encoder.submit(self._encode, job)
        return job.future

    @property
    def is_fit(self) -> bool:
        """Whether its threads live, and steps do not fail again and again."""
        return self._failures < MOST_FAILURES and all(thread.is_alive() for thread in self._threads)

    def load(self) -> tuple[int, int]:
        """Rows under way and rows that wait."""
        with self._change:
            waiting = sum(len(job.request.seeds) for job in (*self._waiting, *self._encoding))
            return self._rows_flying(), waiting

    def close(self) -> None:
        """Ends the threads; jobs that are not done fail."""
        with self._change:
            self._over = True
            self._change.notify()
        for thread in self._threads:
            thread.join()
        self._encoder.shutdown()
        if self._steppers:
            self._steppers.shutdown()
        self._ranker.shutdown()
        for job in (*self._waiting, *self._flying):
            job.fail(RuntimeError("the engine is shut down"))

    def _start(self) -> None:
        """Starts the loops; the team of later threads is left at one."""
        for thread in self._threads:
            thread.start()
        self._stepping.wait()
        torch.set_num_threads(1)

    def _rows_flying(self) -> int:
        return sum(len(job.rows) for job in self._flying)

    def _encode(self, job: Job) -> None:
        try:
            if not job.future.cancelled():
                with self._precision(job.resident.policy):
                    job.rows = start_rows(job.resident.policy, job.request, job.params, job if job.exact else None)
        except Exception as error:
            job.fail(error)  # who waits for it is told; the thread serves on
        with self._change:
            self._encoding.discard(job)
            if not job.future.done():
                self._waiting.append(job)
                self._change.notify()

    def _step_for_ever(self) -> None:
        torch.get_num_threads()  # without this, the thread's first operation would take the number of the process
        torch.set_num_threads(self._team)
        self._stepping.set()
        while self._board():
            for flight in list(self._flights.values()):
                self._step(flight)
        for _ in range(self._team):
            self._finished.put(None)

    def _board(self) -> bool:
        """Lets go of who has hung up, takes in who waits and has room; with nobody there waits. False at the end."""
        with self._change:
            while not self._over:
                self._release([job for job in self._flying if job.future.done()])
                self._waiting = deque(job for job in self._waiting if not job.future.done())
                while self._waiting and self._rows_flying() + len(self._waiting[0].rows) <= self.most_rows:
                    self._take(self._waiting.popleft())
                if self._flying:
                    return True
                self._change.wait()
        return False

    def _take(self, job: Job) -> None:
        job.mark()
        self._flying.append(job)
        policy = job.resident.policy
        if policy not in self._flights:
            self._flights[policy] = Flight(policy, self._bf16, self._steppers, self._team)
        self._flights[policy].join(job.rows)

    def _release(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._flying.remove(job)
            self._flights[job.resident.policy].leave(job.rows)
        # A policy that is replaced can then leave the memory.
        self._flights = {policy: flight for policy, flight in self._flights.items() if flight.rows}

    def _step(self, flight: Flight) -> None:
        jobs = [job for job in self._flying if job.resident.policy is flight.policy]
        try:
            flight.step()
            for job in jobs:
                job.on_step(job.rows[0].step)
        except Exception as error:
            self._failures += 1
            for job in jobs:
                job.fail(error)
            return
        self._failures = 0
        done = [job for job in jobs if job.rows[0].is_done]
        with self._change:
            self._release(done)
        for job in done:
            job.mark()
            self._finished.put(job)

    def _decode_for_ever(self) -> None:
        while job := self._finished.get():
            jobs = [job]
            while self._team == 1 and not self._finished.empty() and (another := self._finished.get()):
                jobs.append(another)
            for together in [[job] for job in jobs if job.exact], [[job for job in jobs if not job.exact]]:
                for group in together:
                    self._decode([job for job in group if not job.future.done()])
            del job, jobs  # whose policy need not stay in memory until the next
            if self._over:
                return

    def _decode(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        latents = [row.latents for job in jobs for row in job.rows]
        durations_s = [job.request.duration_s for job in jobs for _ in job.rows]
        try:
            waveforms = iter(jobs[0].resident.autoencoder.decode_rows(latents, durations_s))
        except Exception as error:
            for job in jobs:
                job.fail(error)
            return
        for job in jobs:
            own = list(islice(waveforms, len(job.rows)))
            job.mark()
            if job.ranked:
                self._ranker.submit(self._rank, job, own)
            else:
                _finish(job, own, None)

    def _rank(self, job: Job, waveforms: list[Waveform]) -> None:
        try:
            if self._reward is None and self._make_reward:
                self._reward = self._make_reward()
            assert self._reward, "an engine without a reward model gets no ranked jobs"
            rate = job.resident.autoencoder.sample_rate_hz
            rewards = score(self._reward, [job.request.prompt] * len(waveforms), waveforms, rate)
        except Exception as error:
            job.fail(error)
        else:
            _finish(job, waveforms, rewards.tolist())

    def _precision(self, policy: Policy) -> torch.autocast:
        return torch.autocast(policy.device.type, torch.bfloat16, enabled=self._bf16)


def _finish(job: Job, waveforms: list[Waveform], rewards: list[float] | None) -> None:
    job.mark()
    submitted, begun, sampled, decoded, ranked = job.times
    timing = Timing(begun - submitted, sampled - begun, decoded - sampled, ranked - decoded)
    with suppress(InvalidStateError):  # whoever asked has hung up
        job.future.set_result(Result(waveforms, rewards, timing))

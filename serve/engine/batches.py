"""The engine: requests join and leave the running batches of their policies between Euler steps.

Each stage has its own threads, so that none waits for another: one encodes captions, one steps the rows of all
policies, others decode finished latents, and one computes rewards (``ranking.py``). Whatever is raised there, a user's
``sys.exit`` included, fails the jobs that it concerns; the thread continues.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import torch

from serve.engine.job import Job, Result
from serve.engine.ranking import Ranking
from tangoflux.in_flight import RunningBatch, start_rows
from tangoflux.model.policy import Policy
from tangoflux.rewards import Reward

MAX_CONSECUTIVE_FAILURES = 5
"""After this many failed steps, or rewards that did not return, in a row the engine counts as unhealthy: a GPU may be
lost for good."""


class QueueFullError(Exception):
    """The queue has no room for the job."""


class Engine:
    """Samples jobs in batches that change between steps.

    Args:
        max_rows: rows that are sampled at a time; a job must not have more.
        max_waiting: rows that may wait; further jobs are refused.
        load_reward: loads the reward model, on first use.
        max_reward_s: longest time of a reward, see ``Ranking``.
        bf16: whether policies compute in bfloat16.
        threads: number of threads that step stacks of rows, or decode jobs, in parallel with one OpenMP thread each;
            a single stack is stepped by one team of as many OpenMP threads. With 1, which is best on a GPU, all rows
            are one stack, and all jobs that wait for decoding are decoded together. (There is only one team: two on
            the same cores take twice as long, since neither then spins while it waits for its next loop.)
    """

    def __init__(
        self,
        max_rows: int,
        max_waiting: int,
        load_reward: Callable[[], Reward] | None = None,
        max_reward_s: float = 120.0,
        bf16: bool = False,
        threads: int = 1,
    ) -> None:
        self.max_rows, self.max_waiting = max_rows, max_waiting
        self._ranking = Ranking(load_reward, max_reward_s) if load_reward else None
        self._bf16, self._num_threads = bf16, threads
        self._changed = threading.Condition()
        self._encoding: set[Job] = set()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._batches: dict[Policy, RunningBatch] = {}
        self._sampled: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closed, self._failures = False, 0
        self._encoder = ThreadPoolExecutor(1, "encode")
        self._steppers = ThreadPoolExecutor(threads, "step") if threads > 1 else None
        self._threads = [
            threading.Thread(target=loop, name=loop.__name__, daemon=True)
            for loop in [self._step_loop, *[self._decode_loop] * threads]
        ]
        self._has_team = threading.Event()
        for thread in self._threads:
            thread.start()
        self._has_team.wait()
        torch.set_num_threads(1)  # for threads that start later; the team of `_step_loop` keeps its size

    def submit(self, job: Job) -> Future[Result]:
        """Queues a job. Cancelling the future frees its rows at the next step.

        Raises:
            QueueFullError: there is no room.
        """
        with self._changed:
            room = self.max_waiting + max(0, self.max_rows - self._rows_running())
            waiting = self._rows_waiting()
            if waiting + len(job.request.seeds) > room:
                raise QueueFullError(f"{waiting} samples are waiting already")
            self._encoding.add(job)
        self._encoder.submit(self._encode, job)
        return job.future

    @property
    def is_healthy(self) -> bool:
        """Whether its threads are alive and neither steps nor rewards keep failing."""
        failures = max(self._failures, self._ranking.timeouts if self._ranking else 0)
        return failures < MAX_CONSECUTIVE_FAILURES and all(thread.is_alive() for thread in self._threads)

    @property
    def problem(self) -> str:
        """What is wrong although it is healthy, or ""."""
        return self._ranking.problem if self._ranking else ""

    def load(self) -> tuple[int, int]:
        """The number of rows being sampled, and of rows waiting."""
        with self._changed:
            return self._rows_running(), self._rows_waiting()

    def close(self) -> None:
        """Ends the threads; unfinished jobs fail."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        for thread in self._threads:
            thread.join()
        for pool in (self._encoder, self._steppers):
            if pool:
                pool.shutdown()
        if self._ranking:
            self._ranking.close()
        for job in (*self._waiting, *self._running):
            job.fail(RuntimeError("the engine is shut down"))

    def _rows_running(self) -> int:
        return sum(len(job.rows) for job in self._running)

    def _rows_waiting(self) -> int:
        return sum(len(job.request.seeds) for job in (*self._waiting, *self._encoding))

    def _encode(self, job: Job) -> None:
        policy = job.resident.policy
        try:
            if not job.future.cancelled():
                with torch.autocast(policy.device.type, torch.bfloat16, enabled=self._bf16):
                    job.rows = start_rows(policy, job.request, job.params, job if job.exact else None)
        except BaseException as error:
            job.fail(error)
        with self._changed:
            self._encoding.discard(job)
            if not job.future.done():
                self._waiting.append(job)
                self._changed.notify()

    def _step_loop(self) -> None:
        torch.get_num_threads()  # otherwise the thread's first operation would reset its number to the process's
        torch.set_num_threads(self._num_threads)
        self._has_team.set()
        while not self._closed:
            try:
                if self._admit():
                    for batch in list(self._batches.values()):
                        self._step(batch)
            except BaseException as error:
                self._fail_all(error)
        for _ in range(self._num_threads):
            self._sampled.put(None)

    def _admit(self) -> bool:
        """Removes cancelled jobs and starts waiting ones; blocks while there are none. False once closed."""
        with self._changed:
            while not self._closed:
                self._remove([job for job in self._running if job.future.done()])
                self._waiting = deque(job for job in self._waiting if not job.future.done())
                while self._waiting and self._rows_running() + len(self._waiting[0].rows) <= self.max_rows:
                    self._start(self._waiting.popleft())
                if self._running:
                    return True
                self._changed.wait()
        return False

    def _fail_all(self, error: BaseException) -> None:
        self._failures += 1
        with self._changed:
            for job in (*self._waiting, *self._running):
                job.fail(error)
            self._waiting, self._running, self._batches = deque(), [], {}

    def _start(self, job: Job) -> None:
        job.end_stage()
        self._running.append(job)
        policy = job.resident.policy
        if policy not in self._batches:
            self._batches[policy] = RunningBatch(policy, self._bf16, self._steppers, self._num_threads)
        self._batches[policy].add(job.rows)

    def _remove(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._running.remove(job)
            self._batches[job.resident.policy].remove(job.rows)
        # Without its batch, a replaced policy can be freed.
        self._batches = {policy: batch for policy, batch in self._batches.items() if batch.rows}

    def _step(self, batch: RunningBatch) -> None:
        jobs = [job for job in self._running if job.resident.policy is batch.policy]
        try:
            batch.step()
            for job in jobs:
                job.on_step(job.rows[0].step)
            done = [job for job in jobs if job.rows[0].is_done]
            if done:
                with self._changed:
                    self._remove(done)
        except BaseException as error:
            self._failures += 1
            with self._changed:
                self._running = [job for job in self._running if job not in jobs]
                self._batches.pop(batch.policy, None)  # all of its rows have failed
            for job in jobs:
                job.fail(error)
            return
        self._failures = 0
        for job in done:
            job.end_stage()
            self._sampled.put(job)

    def _decode_loop(self) -> None:
        while job := self._sampled.get():
            jobs = [job]
            while self._num_threads == 1 and not self._sampled.empty() and (another := self._sampled.get()):
                jobs.append(another)
            for group in [*([job] for job in jobs if job.exact), [job for job in jobs if not job.exact]]:
                self._decode([job for job in group if not job.future.done()])
            del job, jobs  # which would keep their policy in memory until the next job
            if self._closed:
                return

    def _decode(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        latents = [row.latents for job in jobs for row in job.rows]
        durations_s = [job.request.duration_s for job in jobs for _ in job.rows]
        try:
            decoded = iter(jobs[0].resident.autoencoder.decode_rows(latents, durations_s))
            for job in jobs:
                waveforms = list(islice(decoded, len(job.rows)))
                job.end_stage()
                if job.ranked:
                    assert self._ranking, "an engine without a reward model gets no ranked jobs"
                    self._ranking.submit(job, waveforms)
                else:
                    job.finish(waveforms, None)
        except BaseException as error:
            for job in jobs:
                job.fail(error)

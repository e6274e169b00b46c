"""Rewards of finished samples, computed in a thread of their own; a reward that does not return holds nothing up."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from serve.engine.job import Job, Waveform
from tangoflux.errors import RewardError, WeightsChangedError
from tangoflux.rewards import Reward, score


class Ranking:
    """Ranks one job at a time.

    A thread cannot be ended from outside. One whose reward takes longer than ``max_s`` is left alone, and another one
    with a reward of its own takes over.

    Args:
        load_reward: loads the reward model, on first use; its time does not count.
        max_s: longest time of a reward, in seconds.

    Attributes:
        timeouts: rewards in a row that took longer.
        problem: what is wrong with the reward, or "".
    """

    def __init__(self, load_reward: Callable[[], Reward], max_s: float) -> None:
        self._load_reward, self._max_s = load_reward, max_s
        self._jobs: queue.SimpleQueue[tuple[Job, list[Waveform]] | None] = queue.SimpleQueue()
        self.timeouts, self.problem = 0, ""
        self._start()

    def submit(self, job: Job, waveforms: list[Waveform]) -> None:
        """Finishes the job when its rewards are there, or fails it."""
        self._jobs.put((job, waveforms))

    def close(self) -> None:
        """Ends the thread after the jobs that wait."""
        self._jobs.put(None)
        self._thread.join(self._max_s)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._loop, name="rank", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        reward: Reward | None = None
        while self._thread is threading.current_thread() and (item := self._jobs.get()):
            job, waveforms = item
            try:
                reward = reward or self._load_reward()
                if not job.future.done():
                    self._rank(job, waveforms, reward)
            except BaseException as error:
                job.fail(error)
                if isinstance(error, WeightsChangedError):
                    reward = None  # the next request is ranked by the new weights alone
            del item, job, waveforms  # which would keep their policy in memory until the next job

    def _rank(self, job: Job, waveforms: list[Waveform], reward: Reward) -> None:
        timer = threading.Timer(self._max_s, self._give_up, (job, reward.name))
        timer.daemon = True
        timer.start()
        try:
            prompts = [job.request.prompt] * len(waveforms)
            rewards = score(reward, prompts, waveforms, job.resident.autoencoder.sample_rate_hz)
        finally:
            timer.cancel()
        if self._thread is threading.current_thread():
            self.timeouts, self.problem = 0, ""
        job.finish(waveforms, rewards.tolist())

    def _give_up(self, job: Job, name: str) -> None:
        self.timeouts += 1
        self.problem = f"reward {name} did not return within {self._max_s:g} s (--max-reward-s)"
        self._start()
        job.fail(RewardError(self.problem))

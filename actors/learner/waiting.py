"""Ranks that have no place in the cluster, as after the loss of a node."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import ray
from ray.util import placement_group_table

from actors.cluster.placement import format_resources
from actors.learner.settings import LearnerSettings
from actors.pools.worker_slot import TELL_S

logger = logging.getLogger(__name__)

LOOK_S = 5.0
"""Seconds between two looks whether the ranks have a place."""

MakeRoom = Callable[[], None]


class WaitingRanks:
    """Looks whether ranks that were started have a place, makes room for them, and says what they wait for."""

    def __init__(self, settings: LearnerSettings, make_room: MakeRoom) -> None:
        """``make_room`` is called while the ranks have no place."""
        self._settings, self._make_room = settings, make_room
        self._since = self._looked = time.monotonic()
        self._told = False

    def look(self) -> None:
        """To be called often until the ranks answer; looks every ``LOOK_S``."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        if all(group["state"] not in ("PENDING", "RESCHEDULING") for group in placement_group_table().values()):
            return  # they are starting
        self._make_room()
        if now - self._since > TELL_S and not self._told:
            self._told = True
            logger.warning(self.shortage(now - self._since))

    def shortage(self, waited_s: float) -> str:
        """What the ranks need and what is there."""
        asked = self._settings
        needs = format_resources({"CPU": asked.num_cpus, "GPU": asked.num_gpus, **asked.resources})
        total, free = format_resources(ray.cluster_resources()), format_resources(ray.available_resources())
        return (
            f"the learner found no place within {waited_s:.0f} s: it needs {asked.workers} x ({needs}), the cluster "
            f"has {total}, of it free {free}: ask for less, or add nodes"
        )

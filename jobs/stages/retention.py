"""Retention: which policies and latents of finished iterations are kept, so that a long run does not fill the disk."""

from __future__ import annotations

from collections.abc import Sequence

from actors.storage.shards import shards_at
from jobs.options.crpo import RunConfig
from jobs.stages.run_storage import RunStorage

LATENTS = ("latents", "chosen_latents", "rejected_latents")


def drop_old(config: RunConfig, storage: RunStorage, finished: Sequence[int], result: int) -> None:
    """Drops what the options do not keep once these iterations are finished.

    The base policy, the last ``keep_policies`` and the run's ``result`` so far stay, and the latents of the last
    ``keep_latents`` iterations; with ``data: offline`` also those of the first, on which all iterations train. Prompts,
    seeds and rewards always stay.

    Raises:
        ResourceError: the directory or store cannot be written.
    """
    first = 2 if config.data == "offline" else 1
    for version in storage.policies.versions() if config.keep_policies else ():
        if version not in (0, result) and version <= max(finished) - config.keep_policies:
            storage.policies.drop(version)
    for iteration in finished:
        old = iteration - config.keep_latents
        if config.keep_latents and old >= first:
            for directory in (storage.rollouts(old), storage.preferences(old)):
                shards_at(directory).drop_columns(LATENTS)

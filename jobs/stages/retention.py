"""Retention: which policies and latents of finished iterations are kept, so that a long run does not fill the disk."""

from __future__ import annotations

from collections.abc import Iterable

from actors.storage.shards import shards_at
from jobs.options.crpo import RunConfig
from jobs.stages.run_storage import RunStorage

LATENTS = ("latents", "chosen_latents", "rejected_latents")


def drop_old(config: RunConfig, storage: RunStorage, finished: Iterable[int]) -> None:
    """Drops what the options do not keep once these iterations are finished.

    The base policy and the last ``keep_policies`` stay, and the latents of the last ``keep_latents`` iterations; with
    ``data: offline`` also those of the first, on which all iterations train. Prompts, seeds and rewards always stay.

    Raises:
        ResourceError: the directory or store cannot be written.
    """
    first = 2 if config.data == "offline" else 1
    for iteration in finished:
        version, old = iteration - config.keep_policies, iteration - config.keep_latents
        if config.keep_policies and version > 0:
            storage.policies.drop(version)
        if config.keep_latents and old >= first:
            for directory in (storage.rollouts(old), storage.preferences(old)):
                shards_at(directory).drop_columns(LATENTS)

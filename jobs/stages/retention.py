"""What of finished iterations is kept: a rule of two numbers, by which a long run does not fill the disk."""

from __future__ import annotations

from collections.abc import Iterable

from actors.storage.policy_store import PolicyStore
from actors.storage.shards import shards_at
from jobs.options.crpo import RunConfig
from jobs.stages.run_storage import RunStorage

LATENTS = ("latents", "chosen_latents", "rejected_latents")


def drop_old(config: RunConfig, place: RunStorage, finished: Iterable[int]) -> None:
    """Drops what the rule does not keep once these iterations are finished.

    Of policies the base and the last ``keep_policies`` stay, of latents those of the last ``keep_latents`` iterations,
    and with ``data: offline`` those of the first, which all train on. Prompts, seeds and rewards always stay.

    Raises:
        ResourceError: the directory or store cannot be written.
    """
    first = 2 if config.data == "offline" else 1
    for iteration in finished:
        version, old = iteration - config.keep_policies, iteration - config.keep_latents
        if config.keep_policies and version > 0:
            PolicyStore(place.local / "policies").drop(version)
            place.drop_policy(version)
        if config.keep_latents and old >= first:
            for name in ("rollouts", "preferences"):
                shards_at(place.root / name / f"i{old:04d}").drop_columns(LATENTS)

"""What of finished iterations is kept: a rule of two numbers, by which a long run does not fill the disk."""

from __future__ import annotations

from pathlib import Path

from actors.policy_store import PolicyStore
from actors.storage import Place
from actors.writer import shards_at
from jobs.config import RunConfig
from jobs.run_place import RunPlace

LATENTS = ("latents", "chosen_latents", "rejected_latents")


def drop_old(config: RunConfig, place: RunPlace, iteration: int) -> None:
    """Drops what the rule does not keep, once ``iteration`` is finished.

    Of policies the base and the last ``keep_policies`` stay, of latents those of the last ``keep_latents`` iterations,
    and with ``data: offline`` those of the first, which all train on. Prompts, seeds and rewards always stay.

    Raises:
        ResourceError: the directory or store cannot be written.
    """
    if config.keep_policies:
        for version in range(1, iteration - config.keep_policies + 1):
            PolicyStore(place.local / "policies").drop(version)
            place.drop_policy(version)
    if config.keep_latents:
        first = 2 if config.data == "offline" else 1
        for old in range(first, iteration - config.keep_latents + 1):
            _drop_latents(place.root, old)


def _drop_latents(root: Path | Place, iteration: int) -> None:
    for name in ("rollouts", "preferences"):
        shards = shards_at(root / name / f"i{iteration:04d}")
        for part in shards.parts():
            shards.drop_columns(part, LATENTS)

"""What a chaos run looks at: how far a run is, what it lost, and whether it equals another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.storage.metrics import read_history
from actors.storage.shards import ShardWriter
from jobs.reporting.tables import format_table
from jobs.stages.failed_chunks import FILE
from tangoflux.data.records import canonical_sha256


@dataclass(frozen=True)
class Progress:
    """How far a run is: where, how many rollout chunks are done, and how many things that can be seen in all."""

    stage: str
    chunks: int
    total: int


@dataclass
class Kill:
    """What was killed and when, how far the run was, and the seconds until something more was done."""

    kind: str
    before: Progress
    at: float
    lost_s: float | None = None


def progress(run_dir: Path) -> Progress:
    """What the run directory shows."""
    history = read_history(run_dir / "metrics.jsonl")
    iteration = len(history.iterations)
    chunks = len(list(run_dir.glob("rollouts/*/part-*.parquet")))
    policies = len(list(run_dir.glob("policies/v*")))
    stage = "base" if not iteration else f"iteration {iteration}"
    if iteration:
        stage += " held-out" if policies > iteration else " learner" if _has_pairs(run_dir, iteration) else " rollouts"
    return Progress(stage, chunks, chunks + policies + iteration + len(history.steps))


def table(kills: Sequence[Kill], log: Path) -> str:
    """Kills and seconds lost by kind, and the number of retried chunks."""
    rows = [("kind", "kills", "s lost", "each")]
    for kind in sorted({kill.kind for kill in kills}):
        lost = [kill.lost_s or 0.0 for kill in kills if kill.kind == kind]
        rows.append((kind, str(len(lost)), f"{sum(lost):.1f}", f"{sum(lost) / len(lost):.1f}"))
    rows.append(("all", str(len(kills)), "", ""))
    retried = log.read_text(errors="replace").count("retrying chunk ")
    return f"{format_table(rows)}\n\nretried chunks: {retried}"


def differences(calm: Path, disturbed: Path) -> list[str]:
    """In what the runs differ: rows (but for when and where they were made), policies and held-out scores."""
    found = [str(path) for path in disturbed.glob(f"rollouts/*/{FILE}")]
    for part in ("rollouts", "preferences"):
        for directory in sorted((calm / part).iterdir()):
            hashes = [canonical_sha256(ShardWriter(run / part / directory.name).read()) for run in (calm, disturbed)]
            found += [f"{part}/{directory.name} differs"] if hashes[0] != hashes[1] else []
    for file in sorted(path for name in ("policies", "heldout") for path in (calm / name).rglob("*") if path.is_file()):
        other = disturbed / file.relative_to(calm)
        if not other.is_file() or other.read_bytes() != file.read_bytes():
            found.append(f"{file.relative_to(calm)} differs")
    return found


def _has_pairs(run_dir: Path, iteration: int) -> bool:
    return any(run_dir.glob(f"preferences/i{iteration:04d}/part-*.parquet"))

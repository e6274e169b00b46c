"""Progress of a run, time lost by kills, and differences between two runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.storage.layout import PREFERENCES, iteration_name
from actors.storage.metrics import read_history
from actors.storage.shards import ShardWriter
from jobs.reporting.tables import format_table
from jobs.stages.failed_chunks import FILE
from tangoflux.data.records import canonical_sha256


@dataclass(frozen=True)
class Progress:
    """The stage of a run, its finished rollout chunks, and its results of every kind (``total``)."""

    stage: str
    chunks: int
    total: int


@dataclass
class Kill:
    """A kill: its kind and time, the run's progress before it, and the seconds until there was new progress."""

    kind: str
    before: Progress
    at: float
    lost_s: float | None = None


def progress(run_dir: Path) -> Progress:
    """The progress that the files of a run directory show."""
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
    """Differences in rows (except the columns on when and where they were made), policies and held-out scores."""
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
    return any(run_dir.glob(f"{PREFERENCES}/{iteration_name(iteration)}/part-*.parquet"))

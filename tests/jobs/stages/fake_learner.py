"""A learner for tests of the stages, which reports steps and trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from actors.learner.settings import LearnerResult
from actors.storage.policy_store import PolicyStore


class FakeLearner:
    """In place of ``train``: reports four steps and changes one tensor; keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def __call__(
        self,
        preferences_dir: Path,
        policy_dir: Path,
        output_dir: Path,
        settings: Any,
        iteration: int,
        seed: int,
        on_step: Callable[[Mapping[str, Any]], None],
        make_room: Callable[[], None],
    ) -> LearnerResult:
        self.calls.append((preferences_dir.name, policy_dir.name))
        for number in range(1, 5):
            on_step(step(iteration, number))
        output_dir.mkdir(parents=True, exist_ok=True)
        weights = PolicyStore(policy_dir.parent).state(int(policy_dir.name[1:]))
        save_file({"fc.0.weight": weights["fc.0.weight"] + 1}, output_dir / "weights.safetensors")
        return LearnerResult(output_dir / "weights.safetensors", {}, {}, {}, None, 6, 4, 0, 1.0)


def step(iteration: int, number: int) -> dict[str, Any]:
    return {"event": "step", "iteration": iteration, "step": number, "loss": 0.7, "margin": 0.0, "seconds": 0.1}

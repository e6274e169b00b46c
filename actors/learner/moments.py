"""AdamW's moments independently of how ZeRO shards them: rows over all trained weights, in the parameters' order.

Each rank stores the part of a row that it holds. A row stored by any number of ranks in any ZeRO stage can be read by
any other number in any other stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from actors.learner.engine import gather_state, scatter_state
from actors.learner.settings import LearnerSettings
from tangoflux.model.policy import Policy

MOMENTS = ("exp_avg", "exp_avg_sq")


def own_moments(engine: Any, policy: Policy, settings: LearnerSettings, rank: int) -> dict[str, Tensor]:
    """This rank's part of each row, and the number of steps; empty if another rank stores it. Every rank calls it."""
    if settings.zero_stage == 3:
        rows = {key: gather_state(policy, key) for key in MOMENTS}
        return {**rows, "step": _step(engine.basic_optimizer)} if rank == 0 else {}
    if settings.zero_stage == 0 and rank != 0:
        return {}
    optimizer = engine.basic_optimizer
    parameters = optimizer.param_groups[0]["params"]
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    # A parameter that never had a gradient has zeros.
    rows = {
        key: torch.cat(
            [
                state.get(key, torch.zeros_like(parameter)).flatten().cpu()
                for parameter, state in zip(parameters, states, strict=True)
            ]
        )
        for key in MOMENTS
    }
    return {**rows, "step": _step(optimizer)}


def set_moments(
    engine: Any, policy: Policy, settings: LearnerSettings, rank: int, parts: Sequence[dict[str, Tensor]]
) -> None:
    """Sets AdamW's moments from stored ``parts``, in the order of the ranks. Every rank calls it."""
    step = parts[0]["step"]
    rows = {key: torch.cat([part[key] for part in parts]) for key in MOMENTS}
    if settings.zero_stage == 3:
        # AdamW creates its state in its first step, which would be too late.
        for flat in engine.optimizer.fp32_partitioned_groups_flat:
            zeros = {key: torch.zeros_like(flat) for key in MOMENTS}
            engine.basic_optimizer.state[flat] = {"step": step.clone(), **zeros}
        for key, row in rows.items():
            scatter_state(policy, key, row)
        return
    parameters = engine.basic_optimizer.param_groups[0]["params"]
    sizes = [parameter.numel() for parameter in parameters]
    # In stages 1 and 2 the optimiser's only parameter is this rank's part; that of the last rank is padded.
    first = rank * sum(sizes) if settings.zero_stage else 0
    for key, row in rows.items():
        mine = row[first : first + sum(sizes)]
        mine = torch.nn.functional.pad(mine, (0, sum(sizes) - len(mine)))
        for parameter, values in zip(parameters, mine.split(sizes), strict=True):
            state: dict[str, Any] = engine.basic_optimizer.state[parameter]
            state["step"] = step.clone()
            state[key] = values.view_as(parameter).to(parameter.device, torch.float32, copy=True)


def _step(optimizer: torch.optim.Optimizer) -> Tensor:
    return next(state["step"] for state in optimizer.state.values() if state).cpu()

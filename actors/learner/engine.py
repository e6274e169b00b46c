"""The learner's use of DeepSpeed. The only file that imports it, and only in a rank."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from torch import Tensor

from actors.learner.batches import micro_steps
from actors.learner.settings import LearnerSettings
from tangoflux.model.policy import Policy


def start_deepspeed(policy: Policy, masters: dict[str, Tensor], settings: LearnerSettings) -> Any:
    """A DeepSpeed engine with AdamW over the trainable weights; the process group must exist.

    Args:
        policy: on its device and in the precision of the training.
        masters: the float32 weights by parameter name, if ``policy`` holds rounded ones; otherwise empty.
    """
    os.environ["DS_ACCELERATOR"] = "cuda" if settings.num_gpus else "cpu"
    # With ZeRO, DeepSpeed imports an unused optimiser whose torch.compile would import all of inductor.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # On a CPU DeepSpeed would first compile a shared-memory all-reduce for inference, which training never calls: that
    # takes a minute and needs a compiler.
    deepspeed.ops.__compatible_ops__ = {}  # pyright: ignore[reportAttributeAccessIssue]
    parameters = list(policy.trainable_parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=settings.adam_betas, weight_decay=settings.weight_decay
    )
    config = deepspeed_config(settings, sum(parameter.numel() for parameter in parameters))
    policy.train()
    engine = deepspeed.initialize(model=policy, optimizer=optimizer, config=config)[0]
    # DeepSpeed copied its masters from the policy's rounded weights.
    for name, parameter in policy.named_parameters():
        if name in masters:
            deepspeed.utils.safe_set_full_fp32_param(parameter, masters[name].to(parameter.device))
    return engine


def deepspeed_config(settings: LearnerSettings, trainable: int) -> dict[str, Any]:
    """DeepSpeed's configuration for ``trainable`` parameters."""
    return {
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": micro_steps(settings),
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": settings.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": settings.zero_stage,
            # The default buckets would use gigabytes for a small policy.
            "reduce_bucket_size": min(trainable, 500_000_000),
            "allgather_bucket_size": min(trainable, 500_000_000),
            "overlap_comm": False,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }


def update(engine: Any) -> float:
    """Takes an optimiser step; returns the norm of the gradients over all ranks before clipping."""
    norm = None if engine.zero_optimization() else _grad_norm(engine.module)
    engine.step()
    return float(engine.get_global_grad_norm() if norm is None else norm)


def _grad_norm(policy: Policy) -> Tensor:
    gradients = [parameter.grad for parameter in policy.trainable_parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def master_weights(policy: Policy, keep: bool) -> dict[str, Tensor]:
    """The float32 master weights of the trained parameters, on the CPU; empty unless ``keep``.

    Every rank must call it, as each may hold a part.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    weights: dict[str, Tensor] = {}
    for name, parameter in policy.named_parameters():
        if not parameter.requires_grad:
            continue
        # In float32 without ZeRO the parameters are the masters.
        master = safe_get_full_fp32_param(parameter)
        if keep:
            weights[name] = (parameter if master is None else master).detach().to("cpu", torch.float32, copy=True)
    return weights


def gather_state(policy: Policy, key: str) -> Tensor:
    """An optimiser state that ZeRO stage 3 shards, for all trained parameters, as one row on the CPU.

    Every rank must call it.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    states: list[Any] = [safe_get_full_optimizer_state(p, key) for p in policy.trainable_parameters()]
    return torch.cat([state.flatten().cpu() for state in states])


def scatter_state(policy: Policy, key: str, row: Tensor) -> None:
    """The inverse of ``gather_state``."""
    from deepspeed.utils import safe_set_full_optimizer_state

    parameters: list[Any] = list(policy.trainable_parameters())
    for parameter, values in zip(parameters, row.split([p.ds_numel for p in parameters]), strict=True):
        safe_set_full_optimizer_state(parameter, values.to(policy.device), key)

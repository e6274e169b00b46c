"""LoRA (Hu et al., 2021): the transformer's matrices are frozen, and low-rank additions to them are trained.

An adapted matrix W acts as ``W + alpha / rank * B A``. A policy has one adapter, peft's "default"; its tensors have the
names of the policy's parameters, such as ``transformer.transformer_blocks.0.attn.to_q.lora_A.default.weight``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tangoflux.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from tangoflux.model.policy import Policy

TARGETS = (
    r"(?:single_)?transformer_blocks\.\d+\."
    r"(?:attn\.(?:to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
    r"|ff(?:_context)?\.net\.(?:0\.proj|2)|proj_mlp|proj_out)"
)
"""The adapted modules of the transformer: all matrices of attention and MLP, which act on the tokens.

The modulations, a quarter of all weights, act on sigma and the pooled text only; the other matrices are small.
"""

WHOLE = ("fc.", "duration_emebdder.")
"""Modules that are fully trained in addition to the adapter."""

A, B = ".lora_A.default.", ".lora_B.default."
"""The factors' part of a tensor's name, between the module's name and ``weight``."""

SEED = 0
"""Seed of a new adapter's A, so that all ranks have the same; its B is 0."""


@dataclass(frozen=True)
class LoraSettings:
    """Rank and alpha of an adapter, whose additions are scaled by ``alpha / rank``.

    Raises:
        ConfigError: one of them is not positive or not finite.
    """

    rank: int
    alpha: float

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"LoRA rank is {self.rank}, expected at least 1")
        if not 0 < self.alpha < math.inf:
            raise ConfigError(f"LoRA alpha is {self.alpha}, expected a finite number above 0")

    @property
    def scale(self) -> float:
        """The factor of the product of B and A."""
        return self.alpha / self.rank


def add_lora(policy: Policy, settings: LoraSettings) -> None:
    """Adds a new adapter, which has no effect yet, to the transformer, and freezes everything else in it.

    ``fc`` and the duration embedder stay trainable.
    """
    # peft takes seconds to import and is needed only for adapters.
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    values: dict[str, Any] = {"r": settings.rank, "lora_alpha": settings.alpha, "target_modules": TARGETS}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        inject_adapter_in_model(LoraConfig(**values), policy.transformer)
    policy.train(policy.training)


def lora_of(policy: Policy) -> LoraSettings | None:
    """The settings of a policy's adapter, or None."""
    if not hasattr(policy.transformer, "peft_config"):
        return None
    config: Any = policy.transformer.peft_config["default"]
    return LoraSettings(config.r, config.lora_alpha)


def merged_state(policy: Policy) -> dict[str, Tensor]:
    """The policy's ``state_dict`` with its adapter, if any, merged into the adapted matrices."""
    settings, state = lora_of(policy), policy.state_dict()
    if settings is None:
        return state
    base = {name.replace(".base_layer.", "."): value for name, value in state.items() if ".lora_" not in name}
    trained = {name: value for name, value in state.items() if ".lora_" in name or name.startswith(WHOLE)}
    return merge(base, trained, settings, "the adapter")


def merge(
    base: Mapping[str, Tensor], trained: Mapping[str, Tensor], settings: LoraSettings, source: str
) -> dict[str, Tensor]:
    """A policy's tensors with LoRA's: the products are added to the adapted matrices, the other tensors replaced.

    Args:
        base: by the names in a policy without an adapter; not modified.
        trained: by the names in a policy with an adapter.
        source: name of ``trained`` in errors.

    Raises:
        CheckpointError: ``trained`` is not exactly what LoRA trains of ``base``.
    """
    check_trained({name: tuple(value.shape) for name, value in base.items()}, trained, settings, source)
    merged = {**base, **{name: value for name, value in trained.items() if ".lora_" not in name}}
    for name, down in trained.items():
        if A in name:
            key, up = name.replace(A, "."), trained[name.replace(A, B)]
            # In float64 the float32 result does not depend on the number of threads or the order of the sum.
            merged[key] = (base[key].double() + settings.scale * (up.double() @ down.double())).float()
    return merged


def check_trained(
    shapes: Mapping[str, tuple[int, ...]], trained: Mapping[str, Tensor], settings: LoraSettings, source: str
) -> None:
    """Checks that ``trained`` fits a base of these shapes, see ``merge``."""
    expected = trained_shapes(shapes, settings.rank)
    given = {name: tuple(value.shape) for name, value in trained.items()}
    wrong = sorted(name for name in {*expected, *given} if expected.get(name) != given.get(name))
    if wrong:
        named = ", ".join(wrong[:5])
        raise CheckpointError(f"{source} does not fit a policy with LoRA rank {settings.rank}: {named}")


def trained_shapes(shapes: Mapping[str, tuple[int, ...]], rank: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors that LoRA trains, by name, from those of a policy without an adapter."""
    trained: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if name.startswith(WHOLE):
            trained[name] = shape
        elif re.fullmatch(rf"transformer\.{TARGETS}\.weight", name):
            stem = name.removesuffix(".weight")
            trained[f"{stem}{A}weight"], trained[f"{stem}{B}weight"] = (rank, shape[1]), (shape[0], rank)
    return trained

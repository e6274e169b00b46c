"""The reference: frozen whole, and without a trace in the policy that it shares weights with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tangoflux.model.layout import load_lora_policy, load_policy
from tangoflux.model.policy import Policy
from tangoflux.model.reference import AdapterReference, make_reference
from tests.tiny import LORA, tiny_lora


def lora_policy(directory: Path, seed: int = 0) -> Policy:
    policy = load_lora_policy(directory, LORA)
    policy.load_state_dict(tiny_lora(directory, seed), strict=False)
    return policy


def inputs(policy: Policy) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 8, 8, generator=generator)
    text = policy.encode_text(["a dog barks", "a bell rings twice"])
    return latents, torch.tensor([0.3, 0.9]), text, torch.tensor([1.0, 3.0]), torch.ones(2, 8, dtype=torch.bool)


def move(policy: Policy) -> None:
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter += 0.1


def gradients(policy: Policy, reference: Any) -> list[Tensor | None]:
    """Of a training step, with a call of the reference between its forward and its backward pass."""
    velocity = policy(*inputs(policy))
    if reference:
        with torch.no_grad():
            reference(*inputs(policy))
    velocity.square().sum().backward()
    return [parameter.grad for parameter in policy.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lora", [True, False])
def test_a_reference_stays_at_the_policys_start(tiny_policy_dir: Path, lora: bool, dtype: torch.dtype) -> None:
    policy = (lora_policy(tiny_policy_dir) if lora else load_policy(tiny_policy_dir)).to(dtype)
    reference = make_reference(policy)
    assert isinstance(reference, AdapterReference) == lora
    with torch.no_grad():
        start = policy(*inputs(policy))
        assert torch.equal(reference(*inputs(policy)), start)
        move(policy)
        assert torch.equal(reference(*inputs(policy)), start)
        assert (policy(*inputs(policy)) - start).abs().max() > 0.01
    assert reference.device == policy.device and reference.config == policy.config
    assert torch.equal(reference.encode_text(["a dog"]).states, policy.encode_text(["a dog"]).states)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_call_of_the_reference_leaves_the_policys_gradients_as_they_are(
    tiny_policy_dir: Path, checkpointing: bool
) -> None:
    found: list[list[Tensor | None]] = []
    for called in (False, True):
        policy = lora_policy(tiny_policy_dir).train()
        if checkpointing:
            policy.transformer.enable_gradient_checkpointing()
        reference = make_reference(policy)
        move(policy)
        found.append(gradients(policy, reference if called else None))
    assert sum(gradient is not None and bool(gradient.any()) for gradient in found[0]) > 20
    for without, gradient in zip(*found, strict=True):
        assert (without is None and gradient is None) or torch.equal(without, gradient)  # pyright: ignore[reportArgumentType]


def test_a_call_of_the_reference_leaves_the_policy_as_it_is(tiny_policy_dir: Path) -> None:
    policy = lora_policy(tiny_policy_dir).train()
    reference = make_reference(policy)
    before = {name: (id(p), p.requires_grad, p.detach().clone()) for name, p in policy.named_parameters()}
    modes = [module.training for module in policy.modules()]
    assert not reference(*inputs(policy)).requires_grad
    assert [module.training for module in policy.modules()] == modes
    for name, parameter in policy.named_parameters():
        identity, requires_grad, value = before[name]
        assert (id(parameter), parameter.requires_grad) == (identity, requires_grad)
        assert torch.equal(parameter, value)


def test_the_base_weights_of_an_adapters_reference_are_the_policys_own(tiny_policy_dir: Path) -> None:
    policy = lora_policy(tiny_policy_dir)
    reference = make_reference(policy)
    start = reference(*inputs(policy))
    with torch.no_grad():
        policy.transformer.x_embedder.weight += 1
    assert not torch.equal(reference(*inputs(policy)), start)

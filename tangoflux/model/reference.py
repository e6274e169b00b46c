"""The reference: a frozen copy of the policy at an iteration's start."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from tangoflux.model.conditioning import TextStates
from tangoflux.model.lora import lora_of
from tangoflux.model.policy import Policy, PolicyConfig


class Reference(Protocol):
    """The methods of a reference that the losses use; see ``Policy``."""

    @property
    def config(self) -> PolicyConfig:
        """The policy's config."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        ...

    def encode_text(self, texts: Sequence[str], max_length: int | None = None) -> TextStates:
        """Encodes captions."""
        ...

    def encode_unconditional(self, negatives: Sequence[str], text: TextStates) -> TextStates:
        """Encodes negative prompts, as long as the captions."""
        ...

    def __call__(
        self, noisy_latents: Tensor, sigma: Tensor, text: TextStates, duration_s: Tensor, frame_mask: Tensor
    ) -> Tensor:
        """The velocity."""
        ...


def make_reference(policy: Policy) -> Reference:
    """The reference of a policy that is about to be trained, on its device and in its precision.

    It is a full copy or, for a policy with an adapter, one that shares the frozen weights.
    """
    return AdapterReference(policy) if lora_of(policy) else copy.deepcopy(policy).requires_grad_(False)


class AdapterReference:
    """Runs a policy's modules with frozen copies of all trained tensors: adapter, ``fc``, duration embedder.

    The base weights exist once. The copies replace the trained tensors only during a call, and no state of the policy
    changes, so that a call may come between its forward and backward pass. At the start of the first iteration the
    frozen adapter has no effect, but policy and reference run the same kernels.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._frozen = {name: p.detach().clone() for name, p in policy.named_parameters() if p.requires_grad}

    @property
    def config(self) -> PolicyConfig:
        """The policy's config."""
        return self._policy.config

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._policy.device

    def encode_text(self, texts: Sequence[str], max_length: int | None = None) -> TextStates:
        """See ``Policy.encode_text``; the text encoder is not trained."""
        return self._policy.encode_text(texts, max_length)

    def encode_unconditional(self, negatives: Sequence[str], text: TextStates) -> TextStates:
        """See ``Policy.encode_unconditional``."""
        return self._policy.encode_unconditional(negatives, text)

    def __call__(
        self, noisy_latents: Tensor, sigma: Tensor, text: TextStates, duration_s: Tensor, frame_mask: Tensor
    ) -> Tensor:
        """See ``Policy.forward``; computes no gradient."""
        with torch.no_grad():
            return torch.func.functional_call(
                self._policy, self._frozen, (noisy_latents, sigma, text, duration_s, frame_mask)
            )

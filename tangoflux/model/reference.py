"""The reference: the policy as it is at an iteration's start, frozen whole."""

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
    """What the losses need of a reference; see ``Policy``."""

    @property
    def config(self) -> PolicyConfig:
        """The policy's."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def encode_text(self, texts: Sequence[str], max_length: int | None = None) -> TextStates:
        """Encodes captions."""
        ...

    def __call__(
        self, noisy_latents: Tensor, sigma: Tensor, text: TextStates, duration_s: Tensor, frame_mask: Tensor
    ) -> Tensor:
        """The velocity."""
        ...


def make_reference(policy: Policy) -> Reference:
    """The reference of a policy that is about to be trained, on its device and in its precision.

    It is a whole copy, or for a policy with an adapter one that shares what is not trained.
    """
    return AdapterReference(policy) if lora_of(policy) else copy.deepcopy(policy).requires_grad_(False)


class AdapterReference:
    """A policy's own modules run with frozen copies of all that is trained: adapter, ``fc``, duration embedder.

    The base weights are there once. The copies only stand in for the trained tensors while a call lasts; nothing of
    the policy is switched, so that a call may come between its forward and its backward pass. At the first iteration's
    start the frozen adapter is one that changes nothing: policy and reference still run the same kernels.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._frozen = {name: p.detach().clone() for name, p in policy.named_parameters() if p.requires_grad}

    @property
    def config(self) -> PolicyConfig:
        """The policy's."""
        return self._policy.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._policy.device

    def encode_text(self, texts: Sequence[str], max_length: int | None = None) -> TextStates:
        """See ``Policy.encode_text``; the text encoder is not trained."""
        return self._policy.encode_text(texts, max_length)

    def __call__(
        self, noisy_latents: Tensor, sigma: Tensor, text: TextStates, duration_s: Tensor, frame_mask: Tensor
    ) -> Tensor:
        """See ``Policy.forward``; without a gradient."""
        with torch.no_grad():
            return torch.func.functional_call(
                self._policy, self._frozen, (noisy_latents, sigma, text, duration_s, frame_mask)
            )

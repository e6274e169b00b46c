"""The loss of a batch of preference pairs under a policy and its reference, and what is measured with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.learner.batches import NoiseKey, PairBatch, PairData
from actors.learner.task import Velocity
from tangoflux.flow import interpolate, velocity_target
from tangoflux.losses import crpo_loss, dpo_fm_loss, implicit_margin, squared_error
from tangoflux.model.conditioning import TRAINING_MAX_TOKENS, TextStates
from tangoflux.model.policy import Policy
from tangoflux.model.reference import Reference

OBJECTIVES = {"crpo": crpo_loss, "dpo_fm": dpo_fm_loss}


@dataclass(frozen=True)
class PairLosses:
    """(B,) each: the squared errors of policy and reference, and the terms made of them."""

    winner: Tensor
    loser: Tensor
    margin: Tensor
    dpo: Tensor
    loss: Tensor

    def sums(self) -> Tensor:
        """(6,) in float64: sums over the pairs in the order of ``MEANS``, with the accuracy; then their number."""
        # A pair with equal errors is neither ranked right nor wrong: policy and reference start as equals.
        correct = (self.margin > 0).double() + 0.5 * (self.margin == 0).double()
        terms = (self.loss, self.dpo, self.winner, self.loser, self.margin, correct, torch.ones_like(self.loss))
        return torch.stack([term.detach().double().sum() for term in terms])


MEANS = ("loss", "dpo_loss", "winner_loss", "loser_loss", "margin", "implicit_accuracy")
"""Names of ``PairLosses.sums``."""


def means(sums: Tensor) -> dict[str, float]:
    """``PairLosses.sums``, added over batches and ranks, as means over all pairs."""
    *totals, count = sums.tolist()
    return {name: total / count for name, total in zip(MEANS, totals, strict=True)}


def pair_losses(policy: Velocity, reference: Reference, batch: PairBatch, objective: str, beta: float) -> PairLosses:
    """All losses of a batch; gradients reach the policy only.

    Captions are encoded once, by the reference, whose text encoder is the policy's own.
    """
    text = reference.encode_text(batch.prompts, TRAINING_MAX_TOKENS)
    winner, loser = pair_errors(policy, text, batch)
    with torch.no_grad():
        ref_winner, ref_loser = pair_errors(reference, text, batch)
    errors = (winner, loser, ref_winner, ref_loser)
    return PairLosses(
        winner=winner,
        loser=loser,
        margin=implicit_margin(*errors, beta),
        dpo=dpo_fm_loss(*errors, beta),
        loss=OBJECTIVES[objective](*errors, beta),
    )


def pair_errors(policy: Velocity, text: TextStates, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """Squared velocity errors (B,) of chosen and rejected at the same noise and sigma, from one forward pass."""
    latents = torch.cat([batch.chosen, batch.rejected])
    noise, sigma, frame_mask = batch.noise.repeat(2, 1, 1), batch.sigma.repeat(2), batch.frame_mask.repeat(2, 1)
    both = text.select(list(range(len(batch.prompts))) * 2)
    velocity = policy(interpolate(latents, noise, sigma), sigma, both, batch.duration_s.repeat(2), frame_mask)
    winner, loser = squared_error(velocity, velocity_target(latents, noise), frame_mask).chunk(2)
    return winner, loser


@dataclass(frozen=True)
class Measurer:
    """Measures a policy against the reference on fixed pairs and noise, outside the training."""

    reference: Reference
    data: PairData
    objective: str
    beta: float
    micro_batch_size: int

    def losses(self, policy: Policy, rows: Sequence[int], keys: Sequence[NoiseKey]) -> dict[str, float]:
        """Means over ``rows``, each with the noise of every key."""
        with torch.no_grad():
            sums = [losses.sums() for key in keys for losses in self._batches(policy, rows, key)]
        return means(torch.stack(sums).sum(dim=0))

    def probe(self, policy: Policy, rows: Sequence[int], key: NoiseKey) -> tuple[dict[str, float], dict[str, float]]:
        """As ``losses``, and gradient norms of the mean DPO term ("dpo") and of the mean winner loss ("winner")."""
        parameters = list(policy.trainable_parameters())
        totals = {"dpo": [torch.zeros_like(p, dtype=torch.float32) for p in parameters]}
        totals["winner"] = [total.clone() for total in totals["dpo"]]
        sums: list[Tensor] = []
        for losses in self._batches(policy, rows, key):
            sums.append(losses.sums())
            for name, term in (("dpo", losses.dpo), ("winner", losses.winner)):
                loss = term.sum() / len(rows)
                gradients = torch.autograd.grad(loss, parameters, retain_graph=name == "dpo", materialize_grads=True)
                for total, gradient in zip(totals[name], gradients, strict=True):
                    total += gradient
        norms = {name: float(torch.nn.utils.get_total_norm(total)) for name, total in totals.items()}
        return means(torch.stack(sums).sum(dim=0)), norms

    def _batches(self, policy: Policy, rows: Sequence[int], key: NoiseKey) -> Iterator[PairLosses]:
        for start in range(0, len(rows), self.micro_batch_size):
            batch = self.data.batch(rows[start : start + self.micro_batch_size], key).to(self.reference.device)
            yield pair_losses(policy, self.reference, batch, self.objective, self.beta)

"""The loss of a batch of preference pairs under a policy and its reference, and the metrics that go with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.learner.batches import NoiseKey, PairBatch, PairData
from actors.learner.objectives import PairErrors, load_objective
from actors.learner.task import Velocity
from tangoflux.flow import interpolate, velocity_target
from tangoflux.losses import dpo_fm_loss, implicit_margin, squared_error
from tangoflux.model.conditioning import TRAINING_MAX_TOKENS, TextStates
from tangoflux.model.policy import Policy
from tangoflux.model.reference import Reference

MEANS = ("loss", "dpo_loss", "winner_loss", "loser_loss", "margin", "implicit_accuracy")
"""The metrics, in the order of ``PairLosses.sums``; winner and loser are the paper's words for chosen and rejected."""


@dataclass(frozen=True)
class PairLosses:
    """The terms of B pairs, (B,) each.

    Attributes:
        chosen, rejected: squared velocity errors of the policy.
        margin: the logit inside L_DPO-FM, positive where the policy ranks the pair as the reward did.
        dpo: L_DPO-FM.
        loss: the objective.
    """

    chosen: Tensor
    rejected: Tensor
    margin: Tensor
    dpo: Tensor
    loss: Tensor

    def sums(self) -> Tensor:
        """(7,) in float64: sums over the pairs in the order of ``MEANS``, then the number of pairs."""
        # A tie counts as half right: policy and reference start as equals.
        correct = (self.margin > 0).double() + 0.5 * (self.margin == 0).double()
        terms = (self.loss, self.dpo, self.chosen, self.rejected, self.margin, correct, torch.ones_like(self.loss))
        return torch.stack([term.detach().double().sum() for term in terms])


def means(sums: Tensor) -> dict[str, float]:
    """``PairLosses.sums``, added over batches and ranks, as means over all pairs."""
    *totals, count = sums.tolist()
    return {name: total / count for name, total in zip(MEANS, totals, strict=True)}


def pair_losses(policy: Velocity, reference: Reference, batch: PairBatch, objective: str, beta: float) -> PairLosses:
    """All losses of a batch; gradients reach the policy only.

    Captions are encoded once, by the reference, which shares its text encoder with the policy.
    """
    text = reference.encode_text(batch.prompts, TRAINING_MAX_TOKENS)
    chosen, rejected = _errors(policy, text, batch)
    with torch.no_grad():
        errors = PairErrors(chosen, rejected, *_errors(reference, text, batch))
    return PairLosses(
        chosen,
        rejected,
        margin=implicit_margin(*errors, beta),
        dpo=dpo_fm_loss(*errors, beta),
        loss=load_objective(objective)(errors, beta),
    )


def _errors(policy: Velocity, text: TextStates, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """Squared velocity errors (B,) of chosen and rejected at the same noise and sigma, from one forward pass."""
    latents = torch.cat([batch.chosen, batch.rejected])
    noise, sigma, frame_mask = batch.noise.repeat(2, 1, 1), batch.sigma.repeat(2), batch.frame_mask.repeat(2, 1)
    both = text.select(list(range(len(batch.prompts))) * 2)
    velocity = policy(interpolate(latents, noise, sigma), sigma, both, batch.duration_s.repeat(2), frame_mask)
    chosen, rejected = squared_error(velocity, velocity_target(latents, noise), frame_mask).chunk(2)
    return chosen, rejected


@dataclass(frozen=True)
class Measurer:
    """Evaluates a policy against the reference on fixed pairs and noise, outside the training."""

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
        """``losses``, and the gradient norms of the mean DPO term ("dpo") and the mean chosen error ("winner")."""
        parameters = list(policy.trainable_parameters())
        totals = {"dpo": [torch.zeros_like(p, dtype=torch.float32) for p in parameters]}
        totals["winner"] = [total.clone() for total in totals["dpo"]]
        sums: list[Tensor] = []
        for losses in self._batches(policy, rows, key):
            sums.append(losses.sums())
            for name, term in (("dpo", losses.dpo), ("winner", losses.chosen)):
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

"""The loss of a batch of groups under a policy and its reference, and the metrics that go with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.learner.alignment.groups import GroupBatch, GroupData
from actors.learner.batches import NoiseKey
from actors.learner.objectives import GroupErrors, Objective, load_term
from tangoflux.flow import Velocity, interpolate, velocity_target
from tangoflux.losses import implicit_margin, squared_error
from tangoflux.model.conditioning import TRAINING_MAX_TOKENS
from tangoflux.model.policy import Policy
from tangoflux.model.reference import Reference
from tangoflux.sampling import Conditions

WORST = ("loser_loss", "margin", "implicit_accuracy")
"""Metrics of a batch that holds each group's worst sample too."""


@dataclass(frozen=True)
class GroupLosses:
    """The losses of B groups.

    Attributes:
        loss: (B,) the objective.
        terms: (B,) each, what the loss is a weighted sum of: the objective's own term by its name, then ``winner``, the
            flow-matching loss of the best sample, and if it has a weight ``anchor``, the distance from the reference.
        metrics: (B,) each, without gradients.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    metrics: dict[str, Tensor]

    def sums(self) -> Tensor:
        """See ``sums_of``."""
        return sums_of(self.metrics)


def group_losses(policy: Velocity, reference: Reference, batch: GroupBatch, objective: Objective) -> GroupLosses:
    """All losses of a batch; gradients reach the policy only.

    Captions are encoded once for a group, by the reference, which shares its text encoder with the policy.
    """
    errors = group_errors(policy, reference, batch, objective.guided_loss)
    losses = losses_of(errors, objective)
    metrics = losses.metrics | (pair_metrics(errors, objective.beta) if batch.has_worst else {})
    return dataclasses.replace(losses, metrics=metrics)


def losses_of(errors: GroupErrors, objective: Objective) -> GroupLosses:
    """The losses that follow from the errors of a batch, without ``pair_metrics``; see ``Objective``."""
    own = load_term(objective.name)(errors, **objective.options)
    winner, anchor = errors.policy[0], errors.distance.mean(dim=0)
    loss = own
    for term, weight in ((winner, objective.winner_weight), (anchor, objective.anchor_weight)):
        loss = loss + weight * term if weight else loss
    terms = {objective.info.term: own, "winner": winner} | ({"anchor": anchor} if objective.anchor_weight else {})
    metrics = {"loss": loss, f"{objective.info.term}_loss": own, "winner_loss": winner, "anchor_loss": anchor}
    return GroupLosses(loss, terms, metrics)


def group_errors(policy: Velocity, reference: Reference, batch: GroupBatch, guided: bool) -> GroupErrors:
    """The errors of a batch, from the same forward passes of policy and reference: with guidance two each, else one.

    Args:
        guided: of the velocities that the samples were drawn with, guidance and all; else of those of the captions.
    """
    samples, groups = batch.latents.shape[:2]
    conditions = _conditions(reference, batch, list(range(groups)) * samples, guided)
    latents, noise, sigma = batch.latents.flatten(0, 1), batch.noise.repeat(samples, 1, 1), batch.sigma.repeat(samples)
    frame_mask, target = conditions.frame_mask, velocity_target(latents, noise)
    noisy = interpolate(latents, noise, sigma)
    velocity = _guided_velocity(policy, noisy, sigma, conditions)
    with torch.no_grad():
        frozen = _guided_velocity(reference, noisy, sigma, conditions)
    compared = ((velocity, target), (frozen, target), (velocity, frozen))
    errors = (squared_error(first, second, frame_mask).view(samples, groups) for first, second in compared)
    of_policy, of_reference, distance = errors
    return GroupErrors(of_policy, of_reference, distance, batch.sigma, batch.rewards)


def _guided_velocity(policy: Velocity, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
    """As the sampler's, with gradients through the caption's branch only.

    The unconditional one would cost as much, and its gradients are mostly noise.
    """
    guided = conditions.guided
    negative = None
    if conditions.negative is not None:
        duration_s, frame_mask = conditions.duration_s[guided], conditions.frame_mask[guided]
        with torch.no_grad():
            negative = policy(latents[guided], sigma[guided], conditions.negative, duration_s, frame_mask).float()
    velocity = policy(latents, sigma, conditions.text, conditions.duration_s, conditions.frame_mask).float()
    return velocity if negative is None else conditions.guide(velocity, negative)


def _conditions(reference: Reference, batch: GroupBatch, rows: Sequence[int], guided: bool) -> Conditions:
    """The conditions of the batch's samples; row i is of group ``rows[i]``."""
    text = reference.encode_text(batch.prompts, TRAINING_MAX_TOKENS)
    scale = torch.tensor(batch.guidance_scale)[rows]
    with_guidance = (scale > 1).nonzero()[:, 0] if guided else torch.tensor([], dtype=torch.long)
    negative = None
    if len(with_guidance):
        of_groups = reference.encode_unconditional(batch.negative_prompts, text)
        negative = of_groups.select([rows[index] for index in with_guidance.tolist()])
    device = batch.latents.device
    return Conditions(
        text.select(rows),
        negative,
        with_guidance.to(device),
        scale[with_guidance].to(device),
        batch.duration_s[rows],
        batch.frame_mask[rows],
    )


def pair_metrics(errors: GroupErrors, beta: float) -> dict[str, Tensor]:
    """(B,) each, of the best and the worst sample; winner and loser are the paper's words for them.

    ``margin`` is the logit in L_DPO-FM, ``implicit_accuracy`` says whether it is positive: then the policy ranks the
    two as the reward did.
    """
    policy, reference = errors.policy.detach(), errors.reference
    margin = implicit_margin(policy[0], policy[-1], reference[0], reference[-1], beta)
    # A tie counts as half right: policy and reference start as equals.
    correct = (margin > 0).double() + 0.5 * (margin == 0).double()
    return {"winner_loss": policy[0], "loser_loss": policy[-1], "margin": margin, "implicit_accuracy": correct}


def metric_names(objective: Objective, has_worst: bool) -> tuple[str, ...]:
    """The names of ``GroupLosses.metrics``."""
    return ("loss", f"{objective.info.term}_loss", "winner_loss", "anchor_loss", *(WORST if has_worst else ()))


def sums_of(metrics: Mapping[str, Tensor]) -> Tensor:
    """Sums of metrics (B,) over the groups, then the number of groups, in float64."""
    values = [*metrics.values(), torch.ones_like(next(iter(metrics.values())))]
    return torch.stack([value.detach().double().sum() for value in values])


def means(names: Iterable[str], sums: Tensor) -> dict[str, float]:
    """``sums_of``, added over batches and ranks, as means over all groups."""
    *totals, count = sums.tolist()
    return {name: total / count for name, total in zip(names, totals, strict=True)}


@dataclass(frozen=True)
class Measurer:
    """Evaluates a policy against the reference on fixed groups and noise, outside the training.

    Attributes:
        micro_batch_size: most groups in a forward pass of those that are trained on; at most as many pairs.
    """

    reference: Reference
    data: GroupData
    objective: Objective
    micro_batch_size: int

    @torch.no_grad()
    def pairs(self, policy: Policy, rows: Sequence[int], keys: Sequence[NoiseKey]) -> dict[str, float]:
        """Means of ``pair_metrics`` over ``rows``, each with the noise of every key."""
        metrics: dict[str, Tensor] = {}
        sums: list[Tensor] = []
        for key in keys:
            for batch in self._batches(rows, key, self.data.pair):
                metrics = pair_metrics(
                    group_errors(policy, self.reference, batch, self.objective.guided_loss), self.objective.beta
                )
                sums.append(sums_of(metrics))
        return means(metrics, torch.stack(sums).sum(dim=0))

    def probe(self, policy: Policy, rows: Sequence[int], key: NoiseKey) -> tuple[dict[str, float], dict[str, float]]:
        """Mean metrics over ``rows``, and the gradient norm of each term's mean alone, by the term's name."""
        parameters = list(policy.trainable_parameters())
        totals: dict[str, list[Tensor]] = {}
        metrics: dict[str, Tensor] = {}
        sums: list[Tensor] = []
        for batch in self._batches(rows, key, self.data.ranks):
            losses = group_losses(policy, self.reference, batch, self.objective)
            metrics = losses.metrics
            sums.append(sums_of(metrics))
            for name, term in losses.terms.items():
                total = totals.setdefault(name, [torch.zeros_like(p, dtype=torch.float32) for p in parameters])
                # All terms are of one graph, whose memory the last one frees.
                kept = name != list(losses.terms)[-1]
                gradients = torch.autograd.grad(
                    term.sum() / len(rows), parameters, retain_graph=kept, materialize_grads=True
                )
                for part, gradient in zip(total, gradients, strict=True):
                    part += gradient
        norms = {name: float(torch.nn.utils.get_total_norm(total)) for name, total in totals.items()}
        found = means(metrics, torch.stack(sums).sum(dim=0))
        return found if "margin" in found else found | self.pairs(policy, rows, [key]), norms

    def _batches(self, rows: Sequence[int], key: NoiseKey, ranks: Sequence[int]) -> Iterator[GroupBatch]:
        for start in range(0, len(rows), self.micro_batch_size):
            part = rows[start : start + self.micro_batch_size]
            batch = self.data.batch(part, key, ranks, self.objective.min_sigma)
            yield batch.to(self.reference.device)

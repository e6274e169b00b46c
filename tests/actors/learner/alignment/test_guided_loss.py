"""The loss of velocities with the guidance that the samples were drawn with."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from actors.learner.alignment.groups import pair_groups
from actors.learner.alignment.losses import group_errors, group_losses
from actors.learner.objectives import make_objective
from tangoflux.flow import interpolate, velocity_target
from tangoflux.losses import squared_error
from tangoflux.model.layout import load_policy
from tangoflux.model.policy import Policy
from tests.actors.learner.random_groups import KEY, pairs

SCALE = 3.0


def drawn_with(*scales: float | None) -> pa.Table:
    """A pair for each guidance scale; null: of a user's own audio."""
    table = pairs(len(scales))
    for name, values in (("guidance_scale", scales), ("negative_prompt", [None if s is None else "" for s in scales])):
        index = table.column_names.index(name)
        table = table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))
    return table


def moved(directory: Path) -> Policy:
    policy = load_policy(directory)
    with torch.no_grad():
        next(policy.fc.parameters()).add_(0.1)
    return policy


def test_errors_are_of_the_velocity_that_drew_the_samples(tiny_policy_dir: Path) -> None:
    policy, reference = moved(tiny_policy_dir), load_policy(tiny_policy_dir)
    batch = pair_groups([drawn_with(SCALE)]).batch([0], KEY)
    errors = group_errors(policy, reference, batch, guided=True)
    for found, model in ((errors.policy, policy), (errors.reference, reference)):
        text = model.encode_text(batch.prompts)
        negative = model.encode_unconditional([""], text)
        for rank in (0, 1):
            noisy = interpolate(batch.latents[rank], batch.noise, batch.sigma)
            v, unconditional = (
                model(noisy, batch.sigma, states, batch.duration_s, batch.frame_mask) for states in (text, negative)
            )
            guided = unconditional + SCALE * (v - unconditional)
            target = velocity_target(batch.latents[rank], batch.noise)
            torch.testing.assert_close(found[rank], squared_error(guided, target, batch.frame_mask))


def test_groups_without_guidance_keep_their_errors_beside_those_with(tiny_policy_dir: Path) -> None:
    policy, reference = moved(tiny_policy_dir), load_policy(tiny_policy_dir)
    batch = pair_groups([drawn_with(SCALE, 1.0, None)]).batch([0, 1, 2], KEY)
    guided, plain = (group_errors(policy, reference, batch, guided) for guided in (True, False))
    assert not torch.allclose(guided.policy[:, 0], plain.policy[:, 0])
    torch.testing.assert_close(guided.policy[:, 1:], plain.policy[:, 1:])


@pytest.mark.parametrize("guided", [True, False])
def test_only_the_branch_of_the_caption_is_trained(guided: bool, tiny_policy_dir: Path) -> None:
    policy, reference = moved(tiny_policy_dir), load_policy(tiny_policy_dir).requires_grad_(False)
    batch = pair_groups([drawn_with(SCALE, None)]).batch([0, 1], KEY)
    passes: list[tuple[int, bool]] = []
    policy.transformer.register_forward_pre_hook(
        lambda module, args, inputs: passes.append((len(inputs["hidden_states"]), torch.is_grad_enabled())),
        with_kwargs=True,
    )
    losses = group_losses(policy, reference, batch, make_objective("crpo", {"guided_loss": guided}))
    assert passes == ([(2, False), (4, True)] if guided else [(4, True)])
    losses.loss.sum().backward()

"""LoRA in the learner: what it trains, what the next iteration starts from, and the reference that it starts with."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.learner.alignment.groups import pair_groups
from actors.learner.alignment.losses import group_losses
from actors.learner.checkpoint import load_tensors
from actors.learner.launch import train
from actors.learner.objectives import make_objective
from actors.learner.settings import LearnerResult
from actors.storage.policy_store import PolicyStore
from actors.storage.shards import ShardWriter
from tangoflux.errors import ConfigError
from tangoflux.model.layout import load_lora_policy, load_policy
from tangoflux.model.reference import make_reference
from tests.actors.learner.random_groups import CRPO, KEY, SETTINGS, lone_rank, pairs, reference_of
from tests.actors.learner.settings import alignment_settings
from tests.tiny import LORA, tiny_lora

LORA_SETTINGS = dataclasses.replace(SETTINGS, lora_rank=LORA.rank, lora_alpha=LORA.alpha, epochs=1)


@pytest.fixture
def store(tmp_path: Path, tiny_policy_dir: Path) -> PolicyStore:
    """A store of the tiny policy, and a version with an adapter that changes it."""
    store = PolicyStore(tmp_path / "policies")
    store.publish(0, tiny_policy_dir)
    store.publish(1, store.path(0), tiny_lora(store.path(0)), LORA)
    return store


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_start_of_iteration_2_crpo_is_log_2_and_the_winner_loss(store: PolicyStore, dtype: torch.dtype):
    policy = load_lora_policy(store.path(1), LORA).to(dtype).train()
    batch = pair_groups([pairs(3)]).batch([0, 1, 2], KEY)
    crpo = make_objective("crpo", {"beta": 2000, "winner_weight": 1.0})
    losses = group_losses(policy, make_reference(policy), batch, crpo)
    assert losses.metrics["margin"].tolist() == [0, 0, 0]
    torch.testing.assert_close(losses.loss, losses.terms["winner"] + math.log(2))
    base = load_policy(store.path(0)).to(dtype)
    of_base = group_losses(base, base, batch, crpo)
    change = losses.terms["winner"] - of_base.terms["winner"]
    assert change.abs().max() > 0.01, "the adapter of iteration 1 changes nothing"


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(
    ("version", "checkpointing", "zero_stage", "precision"),
    [(0, False, 0, "fp32"), (1, True, 1, "fp32"), (1, True, 2, "bf16")],
)
def test_only_the_adapter_and_the_conditioning_change(
    store: PolicyStore, tmp_path: Path, version: int, checkpointing: bool, zero_stage: int, precision: str
):
    options = {"zero_stage": zero_stage, "precision": precision, "activation_checkpointing": checkpointing}
    rank = lone_rank(
        store.path(version), tmp_path, **options, lora_rank=LORA.rank, lora_alpha=LORA.alpha, learning_rate=0.01
    )
    frozen = {name: value.clone() for name, value in rank.policy.named_parameters() if not value.requires_grad}
    batch = pair_groups([pairs(2)]).batch([0, 1], KEY)
    start = group_losses(rank.policy, reference_of(rank), batch, CRPO).metrics["margin"]
    rank.run()
    end = group_losses(rank.policy, reference_of(rank), batch, CRPO).metrics["margin"]
    assert start.tolist() == [0, 0] and end.all(), "the reference moved with the policy"
    parameters = dict(rank.policy.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in frozen.items())
    old = dict(load_lora_policy(store.path(version), LORA).named_parameters())
    new = load_tensors(rank.job.weights)
    assert new.keys() == {name for name, value in old.items() if value.requires_grad}
    assert {value.dtype for value in new.values()} == {torch.float32}
    # A fresh adapter's A has no gradient before B has moved, and FLUX's last block ignores a part of its own.
    assert sum(not torch.equal(new[name], old[name]) for name in new) > 0.8 * len(new)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_rank": 4, "zero_stage": 3}, "zero_stage 3 shards weights that LoRA does not train"),
        ({"lora_rank": 4, "ema_decay": 0.9}, "ema_decay 0.9 would average LoRA's factors"),
        ({"lora_rank": -1}, "rank is -1"),
        ({"lora_rank": 4, "lora_alpha": 0.0}, "alpha is 0"),
    ],
)
def test_settings_that_do_not_go_with_lora_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        alignment_settings(**options)


@pytest.fixture(scope="module")
def two_iterations(
    ray_session: None, tiny_policy_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PolicyStore, list[LearnerResult], list[list[dict[str, Any]]]]:
    """Two iterations of the real learner, the first with two ranks, and what each published."""
    directory = tmp_path_factory.mktemp("lora")
    ShardWriter(directory / "preferences").write(0, pairs(17))
    store = PolicyStore(directory / "policies")
    store.publish(0, tiny_policy_dir)
    results: list[LearnerResult] = []
    steps: list[list[dict[str, Any]]] = [[], []]
    for iteration, workers in ((1, 2), (2, 1)):
        settings = dataclasses.replace(LORA_SETTINGS, workers=workers, learning_rate=0.01)
        start = store.path(iteration - 1)
        output = directory / f"i{iteration}"
        on_step = steps[iteration - 1].append
        results.append(train(directory / "preferences", start, output, settings, iteration, seed=0, on_step=on_step))
        store.publish(iteration, start, load_tensors(results[-1].weights), settings.lora)
    return store, results, steps


@pytest.mark.slow
@pytest.mark.ray
def test_both_iterations_of_the_learner_start_at_log_2_and_the_winner_loss(two_iterations: Any):
    _, results, steps = two_iterations
    for of_iteration, result in zip(steps, results, strict=True):
        first = of_iteration[0]
        assert first["margin"] == result.start["margin"] == 0
        assert first["loss"] == pytest.approx(math.log(2) + first["winner_loss"], rel=1e-6)
        assert result.end["margin"] > 0 and result.end["winner"] < result.start["winner"]


@pytest.mark.slow
@pytest.mark.ray
def test_each_iteration_goes_on_from_the_adapter_of_the_one_before(two_iterations: Any):
    store: PolicyStore = two_iterations[0]
    states = [store.state(version) for version in range(3)]
    name = "transformer.transformer_blocks.0.attn.to_q.weight"
    assert not torch.equal(states[1][name], states[0][name]) and not torch.equal(states[2][name], states[1][name])
    assert torch.linalg.matrix_rank(states[2][name] - states[0][name], rtol=1e-4) <= LORA.rank
    assert all((store.path(version) / "base.json").is_file() for version in (1, 2))

"""What a training changes, with a rank in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actors.learner.alignment.groups import pair_groups
from actors.learner.alignment.losses import group_losses
from actors.learner.checkpoint import load_tensors
from actors.storage.paths import content_of
from tangoflux.errors import ConfigError
from tangoflux.model.layout import load_policy, policy_weights
from tests.actors.learner.random_groups import CRPO, KEY, lone_rank, pairs, reference_of
from tests.actors.learner.settings import alignment_settings


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(
    ("zero_stage", "precision"),
    [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (2, "bf16"), (3, "bf16")],
)
def test_only_what_alignment_trains_changes(tiny_policy_dir: Path, tmp_path: Path, zero_stage: int, precision: str):
    rank = lone_rank(tiny_policy_dir, tmp_path, zero_stage=zero_stage, precision=precision)
    before = {name: value.clone() for name, value in reference_of(rank).state_dict().items()}
    rank.run()
    for name, value in reference_of(rank).state_dict().items():
        assert torch.equal(value, before[name]), f"the reference's {name} changed"
    old, new = policy_weights(load_policy(tiny_policy_dir)), load_tensors(rank.job.weights)
    assert set(new) == {name for name in old if not name.startswith("text_encoder.")}
    assert {value.dtype for value in new.values()} == {torch.float32}
    # Not every tensor has a gradient: FLUX's last block ignores a part of its own.
    assert sum(not torch.equal(new[name], old[name]) for name in new) > 0.9 * len(new)


@pytest.mark.usefixtures("process_group")
def test_the_stored_policy_comes_from_masters_that_bf16_does_not_round(tiny_policy_dir: Path, tmp_path: Path):
    rank = lone_rank(tiny_policy_dir, tmp_path, precision="bf16", learning_rate=1e-30)
    rank.run()
    old, new = policy_weights(load_policy(tiny_policy_dir)), load_tensors(rank.job.weights)
    assert all(torch.equal(new[name], old[name]) for name in new)


@pytest.mark.usefixtures("process_group")
def test_activation_checkpointing_changes_nothing_but_the_memory(tiny_policy_dir: Path, tmp_path: Path):
    stored: dict[bool, dict[str, torch.Tensor]] = {}
    kept = {False: 0, True: 0}
    for checkpointing in (False, True):

        def keep(tensor: torch.Tensor, checkpointing: bool = checkpointing) -> torch.Tensor:
            kept[checkpointing] += tensor.numel()
            return tensor

        rank = lone_rank(tiny_policy_dir, tmp_path, activation_checkpointing=checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            group_losses(rank.policy, reference_of(rank), pair_groups([pairs(17)]).batch([0, 1], KEY), CRPO)
        rank.run()
        stored[checkpointing] = load_tensors(rank.job.weights)
    torch.testing.assert_close(stored[True], stored[False])
    assert kept[True] < kept[False] / 2


@pytest.mark.usefixtures("process_group")
def test_the_moving_average_lies_between_start_and_end(tiny_policy_dir: Path, tmp_path: Path):
    stored: dict[float, dict[str, torch.Tensor]] = {}
    for decay in (0.0, 0.5):
        rank = lone_rank(tiny_policy_dir, tmp_path / str(decay), ema_decay=decay, batch_size=15)
        rank.run()
        stored[decay] = load_tensors(rank.job.weights)
    old = policy_weights(load_policy(tiny_policy_dir))
    for name, value in stored[0.5].items():
        torch.testing.assert_close(value, (2 * old[name] + 9 * stored[0.0][name]) / 11)


def test_the_moving_average_forgets_the_start_and_then_decays_as_asked():
    settings = alignment_settings(ema_decay=0.9, ema_every=2)
    assert settings.average_decay(2) == (3 / 12) ** 2
    assert settings.average_decay(1000) == 0.9**2


@pytest.mark.usefixtures("process_group")
def test_deepspeed_compiles_nothing(tiny_policy_dir: Path, tmp_path: Path):
    from deepspeed.comm import comm

    lone_rank(tiny_policy_dir, tmp_path).run()
    assert comm.cdb is not None and comm.cdb.shm_comm_op is None


@pytest.mark.usefixtures("process_group")
def test_a_training_that_diverges_stops_and_stores_nothing(tiny_policy_dir: Path, tmp_path: Path):
    rank = lone_rank(tiny_policy_dir, tmp_path, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(ConfigError, match="learner step 2: lower learning_rate"):
        rank.run()
    assert content_of(rank.job.weights) is None


def test_bf16_weights_without_float32_masters_are_refused():
    with pytest.raises(ConfigError, match="bf16 needs zero_stage 1, 2 or 3"):
        alignment_settings(zero_stage=0, precision="bf16")

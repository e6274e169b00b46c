"""The learner: what a step sees, what it computes, what it changes; and that ranks do not matter."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.learner.alignment import Alignment
from actors.learner.batches import epoch_order, group_noise, rank_share, split_heldout
from actors.learner.checkpoint import load_tensors
from actors.learner.group_losses import group_losses, metric_names
from actors.learner.groups import pair_groups
from actors.learner.launch import train
from actors.learner.mailbox import EventLog
from actors.learner.objectives import OBJECTIVES, make_objective
from actors.learner.rank import Rank, load_data
from actors.learner.reading import count_groups, read_groups, read_pairs
from actors.learner.settings import LearnerJob, LearnerResult
from actors.storage.paths import content_of
from actors.storage.policy_store import PolicyStore
from actors.storage.shards import ShardWriter
from tangoflux.data.preferences import make_pairs
from tangoflux.data.records import build_table, latents_array, latents_column, preference_schema, rollout_schema
from tangoflux.errors import ConfigError, DataError
from tangoflux.model.layout import load_policy, policy_weights
from tests.actors.learner.settings import alignment_settings
from tests.tiny import WORDS

# Accumulation (2 or 3 micro-steps), clipping (the norms are above 1) and an uneven last batch (6 + 6 + 3 pairs).
SETTINGS = alignment_settings(
    batch_size=6,
    micro_batch_size=2,
    epochs=2,
    beta=10,
    learning_rate=1e-3,
    warmup_steps=2,
    max_grad_norm=0.5,
    heldout_pairs=2,
    checkpoint_every=100,
)
KEY = (0, 1, 1)
CRPO = make_objective("crpo", {"beta": 1})


def pairs(count: int, first: int = 0, channels: int = 8) -> Any:
    """A preference table of random latents, 16 to 32 frames a row."""
    random = np.random.default_rng(first)
    frames = [16 + 8 * (index % 3) for index in range(count)]
    latents = [[random.normal(size=(n, channels)).astype(np.float32) for n in frames] for _ in range(2)]
    columns: dict[str, Any] = {
        "prompt_id": [f"p{first + index:06d}" for index in range(count)],
        "prompt": [WORDS[index % 3] for index in range(count)],
        "duration_s": [n / 15.625 for n in frames],
        "num_frames": frames,
        "chosen_latents": latents[0],
        "rejected_latents": latents[1],
    }
    schema = preference_schema(32, channels)
    constants = {"string": "x", "double": 1.0, "int32": 1, "int64": 1}
    for field in schema:
        columns.setdefault(field.name, [constants.get(str(field.type))] * count)
    return build_table(columns, schema)


def rollouts(count: int, first: int = 0, samples: int = 3, scored: bool = True) -> Any:
    """A table of rollouts of random latents and rewards, 16 to 32 frames a row."""
    random = np.random.default_rng(first)
    places = [(index, k) for index in range(count) for k in range(samples)]
    frames = [16 + 8 * (index % 3) for index, _ in places]
    schema = rollout_schema(32, 8)
    columns: dict[str, Any] = {field.name: [None] * len(places) for field in schema} | {
        "prompt_id": [f"p{first + index:06d}" for index, _ in places],
        "sample_index": [k for _, k in places],
        "prompt": [WORDS[index % 3] for index, _ in places],
        "duration_s": [n / 15.625 for n in frames],
        "num_frames": frames,
        "latents": [random.normal(size=(n, 8)).astype(np.float32) for n in frames],
        "iteration": [1] * len(places),
        "reward": random.normal(size=len(places)).tolist() if scored else [None] * len(places),
    }
    return build_table(columns, schema)


def stored(directory: Path, *tables: Any) -> ShardWriter[Path]:
    writer = ShardWriter(directory)
    for part, table in enumerate(tables):
        writer.write(part, table)
    return writer


def with_objective(name: str, **options: Any) -> Any:
    return dataclasses.replace(SETTINGS, objective=make_objective(name, options))


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 pairs in two shards."""
    directory = tmp_path_factory.mktemp("preferences")
    writer = ShardWriter(directory)
    writer.write(0, pairs(10))
    writer.write(1, pairs(7, first=10))
    return directory


def lone_rank(policy_dir: Path, tmp_path: Path, **changes: Any) -> Rank:
    """Two steps of two micro-steps each (8 + 7 pairs), unless ``changes`` say otherwise."""
    tmp_path.mkdir(exist_ok=True)
    settings = dataclasses.replace(SETTINGS, **{"batch_size": 8, "micro_batch_size": 4, "epochs": 1, **changes})
    job = LearnerJob(policy_dir, tmp_path / "weights.safetensors", tmp_path / "checkpoints", settings, 0, 1)
    return Rank(job, pair_groups([pairs(17)]), 0, torch.device("cpu"), EventLog())


def reference_of(rank: Rank) -> Any:
    assert isinstance(rank.task, Alignment)
    return rank.task.reference


# What a step sees


def test_an_epoch_sees_every_training_pair_once_in_an_order_of_its_own():
    rows, heldout = split_heldout(41, 3, seed=0, iteration=1)
    first, second = epoch_order(rows, (0, 1, 1)), epoch_order(rows, (0, 1, 2))
    assert sorted(first) == sorted(second) == rows
    assert first != second
    assert first == epoch_order(rows, (0, 1, 1))
    assert sorted(rows + heldout) == list(range(41))


@pytest.mark.parametrize(("count", "expected"), [(41, 3), (17, 2), (8, 1), (7, 0), (1, 0)])
def test_at_most_an_eighth_of_the_pairs_is_held_out(count: int, expected: int):
    rows, heldout = split_heldout(count, 3, seed=0, iteration=1)
    assert (len(rows), len(heldout)) == (count - expected, expected)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("in_batch", [1, 5, 6])
def test_the_ranks_share_every_global_batch_in_equally_many_micro_steps(workers: int, in_batch: int):
    settings = dataclasses.replace(SETTINGS, workers=workers)
    shares = [rank_share(list(range(in_batch)), settings, rank) for rank in range(workers)]
    assert sorted(row for share in shares for rows in share for row in rows) == list(range(in_batch))
    assert len({len(share) for share in shares}) == 1
    assert max(len(rows) for share in shares for rows in share) <= settings.micro_batch_size


def test_the_noise_of_a_pair_depends_on_run_iteration_epoch_and_pair_only():
    data = pair_groups([pairs(5)])
    together, alone = data.batch([0, 3], KEY), data.batch([3], KEY)
    assert torch.equal(together.noise[1, :16], alone.noise[0, :16])
    assert torch.equal(together.sigma[1:], alone.sigma)
    draws = {float(group_noise(key, pair, 4, 2)[0]) for key in (KEY, (1, 1, 1), (0, 2, 1), (0, 1, 2)) for pair in "ab"}
    assert len(draws) == 8


def test_several_pairs_of_a_prompt_have_noises_of_their_own():
    table = pairs(3)
    table = table.set_column(table.column_names.index("prompt_id"), "prompt_id", [["a", "b", "a"]])
    assert pair_groups([table]).group_ids == ["a", "b", "a#1"]


def test_a_batch_is_padded_to_its_longest_pair():
    batch = pair_groups([pairs(3)]).batch([0, 1], KEY)
    assert batch.latents.shape == (2, *batch.noise.shape) == (2, 2, 24, 8)
    assert batch.frame_mask.sum(dim=1).tolist() == [16, 24]
    assert not batch.latents[:, 0, 16:].any()


def test_rollouts_are_groups_from_the_best_to_the_worst_sample(tmp_path: Path):
    table = rollouts(5)
    data = read_groups(stored(tmp_path, table.slice(0, 6), table.slice(6)), with_objective("dgpo"))
    assert data.group_ids == [f"p{index:06d}" for index in range(5)] and data.ranks == (0, 1, 2)
    rewards, latents = table["reward"].to_numpy().reshape(5, 3), latents_array(table["latents"]).reshape(5, 3, 32, 8)
    batch = data.batch([0, 3], KEY)
    assert batch.latents.shape == (3, 2, 16, 8) and batch.rewards.shape == (3, 2) and batch.has_worst
    for column, row in enumerate((0, 3)):
        order = np.argsort(-rewards[row])
        assert batch.rewards[:, column].tolist() == rewards[row, order].tolist()
        np.testing.assert_array_equal(batch.latents[:, column], latents[row, order, :16])


def test_the_best_and_the_worst_of_rollouts_are_the_pairs_of_these_rollouts(tmp_path: Path):
    table = rollouts(6)
    reward = [0.5, 0.5, 0.5, 0.1, 0.7, 0.7, 0.1, 0.1, 0.7, *table["reward"].to_pylist()[9:]]
    reward[9] = None  # a tie, two best, two worst, a failure
    table = table.set_column(table.column_names.index("reward"), "reward", [reward])
    of_rollouts = read_groups(stored(tmp_path / "rollouts", table), SETTINGS)
    of_pairs = read_groups(stored(tmp_path / "pairs", make_pairs(table)[0]), SETTINGS)
    assert of_rollouts.group_ids == of_pairs.group_ids == [f"p{index:06d}" for index in (1, 2, 4, 5)]
    first, second = of_rollouts.batch([0, 1, 2, 3], KEY), of_pairs.batch([0, 1, 2, 3], KEY)
    for name in ("latents", "noise", "sigma", "duration_s", "frame_mask"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_only_latents_that_are_trained_on_or_measured_are_kept(tmp_path: Path):
    writer = stored(tmp_path, rollouts(3, samples=5))
    for name, kept in (("crpo", {0, 4}), ("expert_iteration", {0, 4}), ("awm", {0, 1, 2, 3, 4})):
        assert set(read_groups(writer, with_objective(name)).latents) == kept
    data = read_groups(writer, with_objective("expert_iteration", top_k=2))
    assert set(data.latents) == {0, 1, 4} and len(data.batch([0], KEY).latents) == 2
    assert not data.batch([0], KEY).has_worst and data.batch([0], KEY, data.pair).has_worst


def test_a_pass_has_the_samples_of_so_many_pairs_but_at_least_a_group(tmp_path: Path):
    data = read_groups(stored(tmp_path, rollouts(3, samples=5)), with_objective("dgpo"))
    assert [data.groups_per_pass(pairs_per_pass) for pairs_per_pass in (1, 2, 5, 16)] == [1, 1, 2, 6]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            [rollouts(4, scored=False)],
            "0 pairs of 4 prompts; 4 dropped .*: there is nothing to train on; jobs/score.py",
        ),
        ([rollouts(4), rollouts(2, first=4, samples=2)], "groups of 2 and of 3 samples; all must have equally many"),
        ([rollouts(4, samples=1)], "0 pairs of 4 prompts; 4 tied"),
    ],
)
def test_rollouts_from_which_nothing_can_be_learned_are_refused(tables: list[Any], message: str, tmp_path: Path):
    with pytest.raises(DataError, match=message):
        count_groups(stored(tmp_path, *tables))


def test_rollouts_without_latents_and_groups_that_are_too_small_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="shard 0 has no columns latents"):
        read_groups(stored(tmp_path / "slim", rollouts(4).drop_columns(["latents"])), with_objective("dgpo"))
    with pytest.raises(ConfigError, match="--top-k 4 is more than the 3 samples of a group"):
        read_groups(stored(tmp_path / "few", rollouts(4)), with_objective("expert_iteration", top_k=4))


# What a step computes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_crpo_of_a_policy_that_equals_its_reference_is_log_2_and_the_winner_loss(
    tiny_policy_dir: Path, dtype: torch.dtype
):
    policy, reference = load_policy(tiny_policy_dir).to(dtype), load_policy(tiny_policy_dir).to(dtype)
    batch = pair_groups([pairs(3)]).batch([0, 1, 2], KEY)
    losses = group_losses(policy.train(), reference.requires_grad_(False), batch, CRPO)
    assert losses.metrics["margin"].tolist() == [0, 0, 0]
    torch.testing.assert_close(losses.loss, losses.terms["winner"] + math.log(2))
    assert losses.loss.requires_grad


def test_a_pair_has_the_same_losses_alone_and_in_a_batch(tiny_policy_dir: Path):
    policy = load_policy(tiny_policy_dir)
    data = pair_groups([pairs(3)])
    together = group_losses(policy, policy, data.batch([0, 1, 2], KEY), CRPO)
    for row in range(3):
        alone = group_losses(policy, policy, data.batch([row], KEY), CRPO)
        for name in ("winner_loss", "loser_loss"):
            torch.testing.assert_close(together.metrics[name][row], alone.metrics[name][0])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_the_sum_of_its_weighted_terms(name: str, tiny_policy_dir: Path, tmp_path: Path):
    objective = make_objective(name, {"winner_weight": 0.5, "anchor_weight": 2.0})
    data = read_groups(stored(tmp_path, rollouts(2)), dataclasses.replace(SETTINGS, objective=objective))
    policy, reference = load_policy(tiny_policy_dir), load_policy(tiny_policy_dir)
    with torch.no_grad():
        next(policy.fc.parameters()).add_(0.1)
    losses = group_losses(policy, reference, data.batch([0, 1], KEY), objective)
    own, winner, anchor = losses.terms.values()
    assert list(losses.terms) == [objective.info.term, "winner", "anchor"] and anchor.min() > 0
    torch.testing.assert_close(losses.loss, own + 0.5 * winner + 2 * anchor)
    assert tuple(losses.metrics) == metric_names(objective, data.trains_on_worst)
    torch.testing.assert_close(losses.metrics["winner_loss"], winner)


# What a training changes


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


# The whole, on Ray


@pytest.fixture(scope="module")
def trained(
    ray_session: None, tiny_policy_dir: Path, preferences: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, tuple[LearnerResult, list[dict[str, Any]]]]:
    """The same training with one and with two ranks: results and step events."""
    outcomes: dict[int, tuple[LearnerResult, list[dict[str, Any]]]] = {}
    for workers in (1, 2):
        steps: list[dict[str, Any]] = []
        output = tmp_path_factory.mktemp(f"learner{workers}")
        settings = dataclasses.replace(SETTINGS, workers=workers)
        result = train(preferences, tiny_policy_dir, output, settings, iteration=1, seed=0, on_step=steps.append)
        outcomes[workers] = result, steps
    return outcomes


@pytest.mark.ray
def test_one_and_two_ranks_train_the_same_policy(trained: dict[int, Any]):
    (one, steps_of_one), (two, steps_of_two) = trained[1], trained[2]
    for name in ("loss", "winner_loss", "loser_loss", "grad_norm", "learning_rate"):
        values = [[step[name] for step in steps] for steps in (steps_of_one, steps_of_two)]
        np.testing.assert_allclose(values[0], values[1], rtol=2e-5, err_msg=name)
    # The gradients were clipped, so that equal norms are not all that was compared.
    assert min(step["grad_norm"] for step in steps_of_one) > SETTINGS.max_grad_norm
    first, second = load_tensors(one.weights), load_tensors(two.weights)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=2e-5, msg=name)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session", "process_group")
def test_one_and_two_ranks_learn_the_same_from_groups(tiny_policy_dir: Path, tmp_path: Path):
    stored(tmp_path / "rollouts", rollouts(10), rollouts(7, first=10))
    settings = dataclasses.replace(with_objective("dgpo", beta=10, anchor_weight=0.1), epochs=1)
    weights, data = tmp_path / "weights.safetensors", tmp_path / "rollouts"
    job = LearnerJob(tiny_policy_dir, weights, tmp_path / "checkpoints", settings, 0, 1, data_dir=data)
    one = Rank(job, load_data(job), 0, torch.device("cpu"), EventLog())
    figures = one.run()
    two_ranks = dataclasses.replace(settings, workers=2)
    steps: list[dict[str, Any]] = []
    two = train(tmp_path / "rollouts", tiny_policy_dir, tmp_path / "two", two_ranks, 1, 0, on_step=steps.append)
    for name in ("loss", "dgpo_loss", "anchor_loss", "margin", "grad_norm"):
        values = [[step[name] for step in found] for found in (one.log.events, steps)]
        np.testing.assert_allclose(values[0], values[1], rtol=2e-5, atol=1e-6, err_msg=name)
    first, second = load_tensors(job.weights), load_tensors(two.weights)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=2e-5, msg=name)
    assert figures and set(two.grad_norm) == {"dgpo", "winner", "anchor"} and two.pairs == 15
    assert two.grad_norm["anchor"]["start"] == 0 < two.grad_norm["anchor"]["end"]


@pytest.mark.ray
def test_each_step_is_reported(trained: dict[int, Any]):
    result, steps = trained[1]
    assert [step["step"] for step in steps] == list(range(1, 7)) and result.steps == 6
    assert [step["epoch"] for step in steps] == [1, 1, 1, 2, 2, 2]
    assert [step["learning_rate"] for step in steps[:3]] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert steps[0]["loss"] == pytest.approx(math.log(2) + steps[0]["winner_loss"], rel=1e-6)
    assert steps[0]["margin"] == 0 and steps[0]["implicit_accuracy"] == 0.5
    assert {step["event"] for step in steps} == {"step"} and {step["iteration"] for step in steps} == {1}


@pytest.mark.ray
def test_start_and_end_are_measured_on_the_same_pairs_and_noise(trained: dict[int, Any]):
    result: LearnerResult = trained[1][0]
    assert result.pairs == 15
    assert result.start["margin"] == 0 and result.end["margin"] > 0
    assert result.end["implicit_accuracy"] > 0.5
    assert result.end["winner"] < result.start["winner"]
    assert result.heldout_pair_accuracy is not None and 0 <= result.heldout_pair_accuracy <= 1
    assert all(norm > 0 for term in result.grad_norm.values() for norm in term.values())


@pytest.mark.ray
def test_the_new_policy_can_be_published(trained: dict[int, Any], tiny_policy_dir: Path, tmp_path: Path):
    result: LearnerResult = trained[1][0]
    published = PolicyStore(tmp_path).publish(1, tiny_policy_dir, load_tensors(result.weights))
    old, new = policy_weights(load_policy(tiny_policy_dir)), policy_weights(load_policy(published))
    assert all(torch.equal(new[name], old[name]) for name in new if name.startswith("text_encoder."))
    assert any(not torch.equal(new[name], old[name]) for name in new)
    assert sorted(os.listdir(str(result.weights.parent))) == ["checkpoints", "weights.safetensors"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_what_is_wrong_in_a_rank_is_said_in_its_own_line(tiny_policy_dir: Path, tmp_path: Path):
    ShardWriter(tmp_path / "preferences").write(0, pairs(2, channels=4))
    with pytest.raises(DataError, match="latents have 4 channels, the policy 8"):
        train(tmp_path / "preferences", tiny_policy_dir, tmp_path / "out", SETTINGS, iteration=1, seed=0)


def _without_pairs(table: Any) -> Any:
    return table.slice(0, 0)


def _without_prompts(table: Any) -> Any:
    return table.drop_columns(["prompt"])


def _with_nan(table: Any) -> Any:
    index = table.column_names.index("chosen_latents")
    latents = latents_column([np.full((32, 8), np.nan)] * len(table), table.schema.field(index))
    return table.set_column(index, "chosen_latents", latents)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_prompts, "shard 0 has no columns prompt"),
        (_with_nan, "chosen_latents holds values that are not finite"),
    ],
)
def test_a_rank_refuses_pairs_that_cannot_be_trained_on(damage: Any, message: str, tmp_path: Path) -> None:
    ShardWriter(tmp_path).write(0, damage(pairs(4)))
    with pytest.raises(DataError, match=message):
        read_pairs(ShardWriter(tmp_path))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_pairs, "holds no preference pairs"),
        (_with_nan, "chosen_latents holds values that are not finite"),
    ],
)
def test_a_ranks_refusal_is_the_training_error(damage: Any, message: str, tiny_policy_dir: Path, tmp_path: Path):
    ShardWriter(tmp_path / "preferences").write(0, damage(pairs(4)))
    with pytest.raises(DataError, match=message):
        train(tmp_path / "preferences", tiny_policy_dir, tmp_path / "out", SETTINGS, iteration=1, seed=0)
    assert not (tmp_path / "out" / "weights.safetensors").exists()

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from actors.storage.shards import ShardWriter
from jobs.capacity.memory import Memory
from jobs.capacity.model_facts import ModelFacts, read_model_facts
from jobs.capacity.plan import Disk, Plan, check_plan, make_plan
from jobs.options.crpo import RunConfig, load_config
from jobs.reporting.formatting import format_bytes
from tangoflux.data.records import build_table, rollout_schema
from tangoflux.errors import CheckpointError, ResourceError
from tangoflux.pipeline import TangoFlux
from tests.tiny import LORA, tiny_lora

PAPER = ModelFacts(
    audio_seq_len=645,
    latent_channels=64,
    max_duration_s=30,
    sample_rate_hz=44100,
    audio_channels=2,
    trained=518_009_536,
    text_encoder=341_231_104,
    codec=156_118_658,
    adapter_per_rank=534_528,
    conditioning=1_313_920,
    decoded_row=645 * 2048 * 128,
    decoded_at_once=1,
    file_bytes=4_061_000_000,
    width=1024,
    blocks=24,
)


def config(*arguments: str) -> RunConfig:
    return load_config(["--run-dir", "unused", *arguments])


def disk(plan: Plan) -> dict[str, Disk]:
    return {part.name: part for part in plan.disk}


def memory(plan: Plan) -> dict[str, Memory]:
    return {part.name: part for part in plan.memory}


def test_facts_are_read_without_the_weights_and_agree_with_the_loaded_model(tiny_policy_dir: Path) -> None:
    facts = read_model_facts(tiny_policy_dir)
    model = TangoFlux.from_pretrained(tiny_policy_dir)
    assert facts.trained == sum(parameter.numel() for parameter in model.policy.trainable_parameters())
    assert facts.text_encoder == sum(parameter.numel() for parameter in model.policy.text_encoder.parameters())
    assert facts.codec == sum(value.numel() for value in model.autoencoder.oobleck.state_dict().values())
    adapter = sum(value.numel() for name, value in tiny_lora(tiny_policy_dir).items() if "lora" in name)
    assert (facts.adapter_per_rank * LORA.rank, facts.conditioning) == (adapter, facts.trained_with(1) - adapter // 4)
    assert (facts.sample_rate_hz, facts.audio_channels) == (model.sample_rate_hz, model.autoencoder.audio_channels)
    assert (facts.audio_seq_len, facts.latent_channels, facts.max_duration_s) == (63, 8, 4)
    assert (facts.width, facts.blocks) == (16, 3)


def test_directory_that_is_no_checkpoint_is_refused(tmp_path: Path, tiny_policy_dir: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json is missing: is .* a model directory"):
        read_model_facts(tmp_path)
    (tmp_path / "config.json").write_bytes((tiny_policy_dir / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"tangoflux\.safetensors is missing"):
        read_model_facts(tmp_path)
    weights = (tiny_policy_dir / "tangoflux.safetensors").read_bytes()
    (tmp_path / "tangoflux.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        read_model_facts(tmp_path)


def test_rollouts_of_the_paper_take_what_they_take() -> None:
    plan = make_plan(config("--prompts-per-iteration", "20000", "--num-samples", "5", "--iterations", "5"), PAPER)
    rollouts = disk(plan)["rollouts"]
    assert rollouts.each_iteration == pytest.approx(100_000 * 645 * 64 * 4, rel=0.01)
    assert format_bytes(rollouts.each_iteration) == "16.6 GB"
    assert rollouts.total == 5 * rollouts.each_iteration


def test_stored_shards_are_as_large_as_planned(tmp_path: Path) -> None:
    facts = dataclasses.replace(PAPER, audio_seq_len=63, latent_channels=32)
    plan = make_plan(config("--prompts-per-iteration", "8", "--num-samples", "5", "--warmup-steps", "0"), facts)
    schema = rollout_schema(63, 32)
    texts = {
        "prompt_id": "p000001",
        "prompt": "a dog barks twice while a siren wails",
        "reward_model": "miniature-clap",
        "reward_checkpoint": "0" * 64,
        "worker": "node:7f3a/pid:12345",
        "negative_prompt": "",
    }
    columns = {field.name: [texts.get(field.name)] * 40 for field in schema}
    columns["latents"] = list(np.random.default_rng(0).normal(size=(40, 63, 32)).astype(np.float32))
    path = ShardWriter(tmp_path).write(0, build_table(columns, schema))
    assert path.stat().st_size == pytest.approx(disk(plan)["rollouts"].each_iteration, rel=0.1)


def test_half_precision_halves_the_latents_and_offline_data_are_stored_once() -> None:
    full, half = (make_plan(config("--latents-dtype", dtype), PAPER) for dtype in ("float32", "float16"))
    assert disk(half)["preferences"].total == pytest.approx(disk(full)["preferences"].total / 2, rel=0.01)
    offline = make_plan(config("--data", "offline"), PAPER)
    assert disk(offline)["rollouts"].total == disk(full)["rollouts"].total / 2


def test_more_ranks_and_a_sharded_optimiser_need_less_a_rank() -> None:
    def each_rank(*arguments: str) -> int:
        return memory(make_plan(config(*arguments), PAPER))["learner ranks"].each

    one, two = each_rank("--learner-workers", "1"), each_rank("--learner-workers", "2")
    # The fullest moment is after the training, when no gradients are left that stage 2 would share.
    assert one > two == each_rank("--learner-workers", "2", "--zero-stage", "2")
    # Without ZeRO the weights are their own masters.
    assert each_rank("--zero-stage", "0") < one
    assert each_rank("--micro-batch-size", "1") < one
    checkpointing = each_rank("--activation-checkpointing", "true")
    assert checkpointing < one / 2
    assert each_rank("--activation-checkpointing", "true", "--lora-rank", "32") < 0.6 * checkpointing


def test_plan_reads_as_a_table() -> None:
    lines = str(make_plan(config("--prompts-per-iteration", "320", "--num-samples", "4"), PAPER)).splitlines()
    assert lines[0].split() == ["disk", "per", "iteration", "whole", "run"]
    assert any(line.startswith("rollouts ") and "1280 x 645 frames x 64 channels" in line for line in lines)
    assert any(line.startswith("learner ranks") and "ZeRO 1" in line for line in lines)


def test_plan_of_a_run_with_gpus_counts_only_this_machines_memory() -> None:
    plan = make_plan(config("--learner-num-gpus", "1", "--rollout-num-gpus", "0.5"), PAPER)
    assert plan.memory_bytes < make_plan(config(), PAPER).memory_bytes / 2
    assert "GPU" not in str(plan)


def test_versions_of_a_lora_run_are_small() -> None:
    whole, lora = (disk(make_plan(config("--lora-rank", rank), PAPER))["policies"] for rank in ("0", "32"))
    assert lora.each_iteration < 0.04 * whole.each_iteration and lora.once == whole.once


def test_plan_that_fits_passes_and_writes_nothing(tmp_path: Path) -> None:
    check_plan(Plan((Disk("rollouts", 0, 1, 1, ""),), ()), tmp_path / "runs" / "new")
    assert not (tmp_path / "runs").exists()


def test_too_small_a_disk_is_told_with_both_sizes_and_what_needs_less(tmp_path: Path) -> None:
    plan = Plan((Disk("rollouts", 0, 10**17, 1, ""),), ())
    with pytest.raises(ResourceError, match=r"needs 1e\+05 TB of disk, but .* are free at .*--num-samples"):
        check_plan(plan, tmp_path / "new")


def test_what_a_resumed_run_has_written_is_not_needed_again(tmp_path: Path) -> None:
    stored = tmp_path / "shard"
    stored.touch()
    with stored.open("r+b") as file:
        file.truncate(10**13)  # a sparse file: it takes no disk
    (tmp_path / "link").hardlink_to(stored)
    check_plan(Plan((Disk("rollouts", 0, 10**13 + 10, 1, ""),), ()), tmp_path)
    with pytest.raises(ResourceError):
        check_plan(Plan((Disk("rollouts", 0, 2 * 10**13, 1, ""),), ()), tmp_path)


def test_too_little_memory_names_the_largest_part_and_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = (Memory("rollout workers", 2, 10**9, "", "--a"), Memory("learner ranks", 4, 10**15, "", "--b"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ResourceError, match=r"4000 TB of memory.*the learner ranks need 4000 TB of it: lower --b"):
        check_plan(Plan((), parts), tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "ray://elsewhere")
    check_plan(Plan((), parts), tmp_path)

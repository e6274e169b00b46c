"""What a run takes of memory, held against real learner processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.capacity.memory import CUDA_BYTES, PROCESS_BYTES, gpu_memory, learner_memory, machine_memory
from jobs.capacity.model_facts import read_model_facts
from jobs.options.crpo import load_config
from jobs.options.sections import LearnerOptions
from tests.jobs.capacity.test_plan import PAPER

CASES: list[dict[str, Any]] = [
    {"workers": 1, "zero_stage": 1},
    {"workers": 2, "zero_stage": 1},
    {"workers": 2, "zero_stage": 2},
    {"workers": 1, "zero_stage": 1, "lora_rank": 16},
]


def gigabytes(*options: str, name: str = "tangoflux") -> dict[str, float]:
    """What one worker of each kind takes of a GPU, in a run with the paper's model."""
    config = load_config(["--run-dir", "unused", "--config", name, *options])
    return {part.name: part.each / 1e9 for part in gpu_memory(config, PAPER)}


@pytest.mark.slow
def test_a_learner_rank_takes_the_memory_that_is_planned(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.jobs.learner_peaks", str(tmp_path), json.dumps(CASES)]
    output = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    for case, peak in zip(CASES, json.loads(output.splitlines()[-1]), strict=True):
        options = LearnerOptions(batch_size=4, micro_batch_size=2, **case)
        planned = PROCESS_BYTES + learner_memory(options, read_model_facts(tmp_path)).without_gpu
        assert planned == pytest.approx(peak, rel=0.2), case


def test_lora_needs_one_set_of_base_weights_for_policy_and_reference_and_optimises_the_adapter_alone() -> None:
    whole, lora = (learner_memory(LearnerOptions(lora_rank=rank, precision="bf16"), PAPER) for rank in (0, 32))
    trained = 32 * PAPER.adapter_per_rank + PAPER.conditioning
    assert PAPER.trained_with(32) == trained < 0.04 * PAPER.trained == 0.04 * PAPER.trained_with(0)
    assert (whole.reference, lora.reference) == (whole.policy, 2 * trained)
    assert (whole.optimizer, lora.optimizer) == (14 * PAPER.trained, 14 * trained)
    assert whole.policy < lora.policy < 1.05 * whole.policy


def test_the_papers_model_fits_one_gpu_of_24_gb_with_lora_and_one_of_80_gb_in_full() -> None:
    lora = gigabytes("--lora-rank", "32", "--micro-batch-size", "16")
    assert lora["learner ranks"] < 8 and lora["rollout workers"] + lora["reward workers"] < 12
    assert gigabytes()["learner ranks"] < 24
    assert gigabytes("--micro-batch-size", "24", "--activation-checkpointing", "false")["learner ranks"] < 75


def test_of_a_kind_with_shares_of_gpus_as_many_are_counted_as_one_gpu_holds() -> None:
    config = load_config(["--run-dir", "a", "--rollout-workers", "8", "--rollout-num-gpus", "0.3"])
    (rollouts,) = gpu_memory(config, PAPER)
    assert rollouts.processes == 3 and rollouts.total == 3 * rollouts.each > 3 * CUDA_BYTES
    assert gpu_memory(load_config(["--run-dir", "a"]), PAPER) == []


def test_a_rank_with_a_gpu_needs_this_machines_memory_to_load_and_to_store_only() -> None:
    with_gpu, without = (
        {part.name: part.each for part in machine_memory(load_config(["--run-dir", "a", *options]), PAPER)}
        for options in (["--learner-num-gpus", "1"], [])
    )
    assert with_gpu["learner ranks"] < without["learner ranks"] / 4
    assert with_gpu["rollout workers"] == without["rollout workers"]

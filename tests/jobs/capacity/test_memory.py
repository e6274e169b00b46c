"""Estimates of memory, compared with real learner processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.capacity.memory import PROCESS_BYTES, learner_memory, machine_memory
from jobs.capacity.model_facts import read_model_facts
from jobs.options.crpo import load_config
from jobs.options.learner import LearnerOptions
from tests.jobs.capacity.test_plan import PAPER

CASES: list[dict[str, Any]] = [
    {"workers": 1, "zero_stage": 1},
    {"workers": 2, "zero_stage": 1},
    {"workers": 2, "zero_stage": 2},
    {"workers": 1, "zero_stage": 1, "lora_rank": 16},
]


@pytest.mark.slow
def test_a_learner_rank_takes_the_memory_that_is_planned(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.jobs.capacity.learner_peaks", str(tmp_path), json.dumps(CASES)]
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


def test_a_rank_with_a_gpu_needs_this_machines_memory_to_load_and_to_store_only() -> None:
    with_gpu, without = (
        {part.name: part.each for part in machine_memory(load_config(["--run-dir", "a", *options]), PAPER)}
        for options in (["--learner-num-gpus", "1"], [])
    )
    assert with_gpu["learner ranks"] < without["learner ranks"] / 4
    assert with_gpu["rollout workers"] == without["rollout workers"]

"""A program: peak memory of real learner ranks, forked from one process so that the libraries are imported once.

python -m tests.jobs.capacity.learner_peaks DIRECTORY '[{"workers": 2, "zero_stage": 1}, ...]'

Writes a random policy of 29 million parameters to DIRECTORY, and prints each training's largest rank in bytes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import T5Config

from actors.learner.alignment.groups import pair_groups
from actors.learner.mailbox import EventLog
from actors.learner.rank import Rank
from actors.learner.settings import AlignmentSettings, LearnerJob
from tangoflux.miniature_training.tokenizer import train_t5_tokenizer
from tangoflux.model.policy import Policy, PolicyConfig
from tangoflux.pipeline import TangoFlux
from tests.actors.learner.random_groups import pairs
from tests.actors.learner.settings import alignment_settings
from tests.tiny import WORDS, tiny_autoencoder

POLICY: dict[str, Any] = {
    "num_layers": 1,
    "num_single_layers": 3,
    "in_channels": 8,
    "attention_head_dim": 64,
    "joint_attention_dim": 512,
    "audio_seq_len": 32,
    "axes_dims_rope": (16, 24, 24),
}
TEXT: dict[str, Any] = {"vocab_size": 320, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 2}


def save_policy(directory: Path) -> None:
    tokenizer = train_t5_tokenizer(WORDS, vocab_size=320, max_length=96)
    policy = Policy(PolicyConfig.from_dict(POLICY), T5Config(**TEXT, num_heads=8), tokenizer)
    policy.freeze_text_encoder()
    TangoFlux(policy.eval(), tiny_autoencoder().eval()).save_pretrained(directory)


def train(directory: Path, name: str, rank: int, settings: AlignmentSettings) -> None:
    """One rank, to its end; leaves its peak in a file."""
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    store = f"file://{directory / name}.store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=settings.workers)
    output = directory / f"{name}.safetensors"
    job = LearnerJob(directory, output, output.with_suffix(".checkpoints"), settings, 0, 1)
    Rank(job, pair_groups([pairs(4)]), rank, torch.device("cpu"), EventLog()).run()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    (directory / f"{name}-{rank}.peak").write_text(peak.split()[1])


def fork(directory: Path, name: str, rank: int, settings: AlignmentSettings) -> int:
    process = os.fork()
    if process == 0:
        try:
            train(directory, name, rank, settings)
        finally:
            os._exit(0)
    return process


def main(directory: Path, cases: list[dict[str, Any]]) -> None:
    save_policy(directory)
    for number, case in enumerate(cases):
        settings = alignment_settings(batch_size=4, micro_batch_size=2, epochs=1, heldout_pairs=0, **case)
        for process in [fork(directory, f"case{number}", rank, settings) for rank in range(settings.workers)]:
            os.waitpid(process, 0)
    peaks = [max(int(file.read_text()) for file in directory.glob(f"case{n}-*.peak")) for n in range(len(cases))]
    print(json.dumps([1024 * peak for peak in peaks]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))

"""The stages that build the miniature's models, and their installation into the package."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from jobs.options.build_miniature import Stage
from jobs.options.prepare import PrepareJob
from jobs.options.pretrain import PretrainingOptions, PretrainJob
from jobs.stages import pretrain
from jobs.stages.preparation import run as preparation
from tangoflux.miniature_training import train_clap, train_detector, train_grounder
from tangoflux.miniature_training.policy import save_initial_policy
from tangoflux.miniature_training.quality import Figure, directory_size, table
from tangoflux.miniature_training.vae import DECODER_TRAINING, VaeTraining, train_decoder, train_vae
from tangoflux.pipeline import TangoFlux
from tangoflux.sampling_params import MINIATURE_PARAMS
from tangoflux.soundworld.recordings import write_recordings

PACKAGE = Path(__file__).resolve().parents[2] / "tangoflux" / "miniature"

RECORDINGS = 8000
RECORDINGS_SEED = 401
BATCH_SIZE = 32
LEARNING_RATE = 3e-3
HELDOUT_CLIPS = 64

Log = Callable[[str], None]


def train_stage(stage: Stage, directory: Path, policy_steps: int) -> None:
    """Trains one model in this process, with one thread; resumes a stage that was interrupted."""
    torch.set_num_threads(1)
    log, output, cache = log_with_time(), directory / stage, directory / "cache"
    if stage == "vae":
        train_vae(output, cache, log, VaeTraining())
    elif stage == "decoder":
        train_decoder(directory / "vae", output, cache, log, DECODER_TRAINING)
    elif stage == "detector":
        train_detector(output, cache, log)
    elif stage == "grounder":
        train_grounder(output, cache, log)
    elif stage == "policy":
        _train_policy(directory / "vae", output, cache, policy_steps, log)
    else:
        train_clap(output, cache, "reward" if stage == "clap" else stage, log)
    (output / "done.json").write_text(json.dumps({"stage": stage}) + "\n")


def is_done(directory: Path, stage: Stage) -> bool:
    """Whether the stage is complete."""
    return (directory / stage / "done.json").is_file()


_INSTALLED = (
    *(("policy/base", "policy"), ("clap", "clap"), ("judge", "judge"), ("compositional", "compositional")),
    *(("detector", "detector"), ("grounder", "grounder")),
)
"""Directories of a build, and of the package."""


def install(directory: Path, rows: Mapping[str, Figure]) -> None:
    """Replaces the package's weights by those of the build, with their quality table."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    for source, target in _INSTALLED:
        shutil.copytree(
            directory / source,
            PACKAGE / target,
            ignore=shutil.ignore_patterns("done.json"),
            copy_function=shutil.copyfile,
        )
    shutil.copyfile(directory / "decoder" / "vae.safetensors", PACKAGE / "policy" / "vae.safetensors")
    write_quality(rows)
    print(f"installed {directory_size(PACKAGE) / 1e6:.1f} MB into {PACKAGE}")


def write_quality(rows: Mapping[str, Figure]) -> None:
    """Writes the package's quality table."""
    (PACKAGE / "QUALITY.md").write_text(
        "# Quality of the miniature\n\nWritten by `python jobs/build_miniature.py --install`. `dev` and `test` prompts "
        "are combinations of sounds that are in no scene of the policy's pretraining; the models that measure (the "
        "detector and the CLAPs) were trained on all combinations. The policy samples with "
        f"{MINIATURE_PARAMS.num_steps} Euler steps and guidance {MINIATURE_PARAMS.guidance_scale:g}.\n\n" + table(rows)
    )
    (PACKAGE / "quality.json").write_text(json.dumps({k: asdict(v) for k, v in rows.items()}, indent=2) + "\n")


def log_with_time() -> Log:
    """A function that prints lines with the seconds since now."""
    started = time.monotonic()
    return lambda line: print(f"[{time.monotonic() - started:6.0f} s] {line}", flush=True)


def _train_policy(codec_dir: Path, output: Path, cache: Path, steps: int, log: Log) -> None:
    """The base policy, by the jobs that users run."""
    initial, clips = output / "initial", output / "prepared"
    if not (initial / "tangoflux.safetensors").exists():
        save_initial_policy(codec_dir, initial, cache, log)
    manifest = write_recordings(output / "recordings", RECORDINGS, RECORDINGS_SEED, log)
    preparation.run(PrepareJob(manifest=manifest, policy=str(initial), output=clips))
    pretrain.run(_pretraining(clips, initial, output / "training-base", steps))
    TangoFlux.from_pretrained(output / "training-base" / "policy").save_pretrained(output / "base", torch.float16)


def _pretraining(clips: Path, policy: Path, output: Path, steps: int) -> PretrainJob:
    return PretrainJob(
        clips=clips,
        init_policy=str(policy),
        output=output,
        group_by_length=True,
        heldout_clips=HELDOUT_CLIPS,
        max_steps=steps,
        validate_every=500,
        sample_every=1000,
        learner=PretrainingOptions(
            epochs=-(-steps * BATCH_SIZE // (RECORDINGS - HELDOUT_CLIPS)),
            batch_size=BATCH_SIZE,
            micro_batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            schedule="linear",
            warmup_steps=min(200, steps // 10),
            threads=1,
            weight_decay=0.01,
            ema_decay=0.998,
            ema_every=4,
            checkpoint_every=250,
        ),
    )

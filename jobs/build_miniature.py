"""Rebuilds every model of the miniature from nothing: python jobs/build_miniature.py

Trains, on the procedural sound world, the event detector, the reward CLAP, the judge CLAP, the autoencoder, the base
policy on its latents, and its decoder once more; each in a process of its own with one thread, two at a time. A build
that was stopped goes on where it was. At the end stands a quality table, and with --install the weights replace those
in the package.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from jobs import prepare, pretrain
from tangoflux.cli import run_main
from tangoflux.errors import TangoFluxError
from tangoflux.miniature_training import train_clap, train_detector
from tangoflux.miniature_training.policy import save_initial_policy
from tangoflux.miniature_training.quality import Figure, codec_figures, directory_size, policy_scores, table
from tangoflux.miniature_training.vae import DECODER_TRAINING, VaeTraining, train_decoder, train_vae
from tangoflux.model.autoencoder import Autoencoder
from tangoflux.pipeline import TangoFlux
from tangoflux.rewards.clap import ClapReward
from tangoflux.rewards.detector import DetectorReward
from tangoflux.rewards.protocol import Reward
from tangoflux.sampling_params import SamplingParams
from tangoflux.soundworld.bank import bank
from tangoflux.soundworld.detector import EventDetector
from tangoflux.soundworld.recordings import write_recordings

PACKAGE = Path(__file__).resolve().parent.parent / "tangoflux" / "miniature"
HELDOUT_SEED = 1234
AFTER = {"vae": (), "policy": ("vae",), "detector": (), "clap": (), "judge": (), "decoder": ("vae",)}
"""The stages, those first that take longest together, and what each waits for."""

POLICY_STEPS = 8000
RECORDINGS = 8000
BATCH_SIZE = 32
RECORDINGS_SEED = 401

PRETRAINING = {
    "train-text-encoder": "true",
    "heldout-clips": "64",
    "batch-size": str(BATCH_SIZE),
    "micro-batch-size": "16",
    "learner-threads": "1",
    "weight-decay": "0.01",
    "ema-decay": "0.998",
    "validate-every": "500",
    "sample-every": "1000",
}
"""Options of jobs/pretrain.py for the policy."""

Log = Callable[[str], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Builds what is missing, prints the quality table, and installs the weights when asked to."""
    options = _parse(argv)
    if options.stage:
        _run_stage(options.stage, options.build_dir, options.policy_steps)
        return 0
    _build(options)
    rows = _quality(options.build_dir, options.heldout_prompts, _clock())
    print(table(rows))
    if options.install:
        _install(options.build_dir, rows)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python jobs/build_miniature.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build-dir", type=Path, default=Path("build/miniature"), help="default: build/miniature")
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time (default: 2)")
    parser.add_argument(
        "--policy-steps", type=int, default=POLICY_STEPS, help="pretraining steps (default: %(default)s)"
    )
    parser.add_argument("--heldout-prompts", type=int, default=384, help="prompts of the table (default: 384)")
    parser.add_argument("--install", action="store_true", help=f"put the weights into {PACKAGE.name}/ of the package")
    parser.add_argument("--stage", choices=tuple(AFTER), help="train this one only, in this process")
    return parser.parse_args(argv)


def _build(options: argparse.Namespace) -> None:
    """Starts every stage as soon as what it waits for is done, at most ``--processes`` at a time."""
    directory, say = options.build_dir, _clock()
    directory.mkdir(parents=True, exist_ok=True)
    waiting = [stage for stage in AFTER if not _done(directory, stage)]
    running: dict[str, subprocess.Popen[bytes]] = {}
    while waiting or running:
        for stage in [s for s in waiting if all(_done(directory, needed) for needed in AFTER[s])]:
            if len(running) < options.processes:
                running[stage] = _start(stage, options)
                waiting.remove(stage)
        time.sleep(5)
        for stage, process in list(running.items()):
            say(f"{stage}: {_last_line(directory / f'{stage}.log')}")
            if process.poll() is not None:
                _check(stage, running.pop(stage), directory)


def _start(stage: str, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--stage", stage, "--build-dir", str(options.build_dir)]
    command += ["--policy-steps", str(options.policy_steps)]
    with (options.build_dir / f"{stage}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _check(stage: str, process: subprocess.Popen[bytes], directory: Path) -> None:
    if process.returncode or not _done(directory, stage):
        raise TangoFluxError(f"stage {stage} ended with status {process.returncode}; see {directory / stage}.log")


def _run_stage(stage: str, directory: Path, policy_steps: int) -> None:
    torch.set_num_threads(1)
    log, output, cache = _clock(), directory / stage, directory / "cache"
    if stage == "vae":
        train_vae(output, cache, log, VaeTraining())
    elif stage == "decoder":
        train_decoder(directory / "vae", output, cache, log, DECODER_TRAINING)
    elif stage == "detector":
        train_detector(output, cache, log)
    elif stage == "policy":
        _pretrain(directory / "vae", output, policy_steps, log)
    else:
        train_clap(output, cache, "reward" if stage == "clap" else "judge", log)
    (output / "done.json").write_text(json.dumps({"stage": stage}) + "\n")


def _pretrain(codec_dir: Path, output: Path, steps: int, log: Log) -> None:
    """The base policy by the jobs that users have, and what a quarter more steps make of it."""
    initial, clips = output / "initial", output / "prepared"
    if not (initial / "tangoflux.safetensors").exists():
        save_initial_policy(codec_dir, initial)
    manifest = write_recordings(output / "recordings", RECORDINGS, RECORDINGS_SEED, log)
    prepare.main(["--manifest", str(manifest), "--policy", str(initial), "--output", str(clips)])
    base, longer = output / "training-base", output / "training-longer"
    _run_pretraining(clips, initial, base, steps, "1.5e-3", "linear")
    # At the rate that the schedule had shortly before its end.
    _run_pretraining(clips, base / "policy", longer, steps // 4, "7.5e-5", "constant")
    for training, name in ((base, "base"), (longer, "longer")):
        TangoFlux.from_pretrained(training / "policy").save_pretrained(output / name, torch.float16)


def _run_pretraining(clips: Path, policy: Path, output: Path, steps: int, rate: str, schedule: str) -> None:
    epochs = -(-steps * BATCH_SIZE // (RECORDINGS - int(PRETRAINING["heldout-clips"])))
    options = {
        **PRETRAINING,
        "clips": str(clips),
        "init-policy": str(policy),
        "output": str(output),
        "max-steps": str(steps),
        "epochs": str(epochs),
        "learning-rate": rate,
        "schedule": schedule,
        "warmup-steps": str(min(200, steps // 10)),
    }
    pretrain.main([argument for name, value in options.items() for argument in (f"--{name}", value)])


def _quality(directory: Path, prompts: int, log: Log) -> dict[str, Figure]:
    codec = Autoencoder.load(directory / "decoder")
    policies = (TangoFlux.from_pretrained(directory / "policy" / name).policy for name in ("base", "longer"))
    base, longer = (TangoFlux(policy, codec) for policy in policies)
    detector = EventDetector.load(directory / "detector")
    rewards: dict[str, Reward] = {
        "reward": ClapReward(directory / "clap", "clap"),
        "judge": ClapReward(directory / "judge", "judge"),
        "exact": DetectorReward(directory / "detector", "exact", "exact"),
        "recall": DetectorReward(directory / "detector", "recall", "recall"),
    }
    rows = codec_figures(base, detector, prompts)
    for name in ("clap", "judge"):
        figures = json.loads((directory / name / "quality.json").read_text())
        share, n = figures["heldout_retrieval_of_5"], figures["heldout_scenes"]
        rows[f"{name}: retrieval among 5 captions"] = Figure(share, (share * (1 - share) / n) ** 0.5, n)
    heldout = bank("dev", prompts, HELDOUT_SEED)
    params = SamplingParams(12, 3.0)
    first, second = (policy_scores(model, heldout, rewards, params, log) for model in (base, longer))
    for name in rewards:
        rows[f"base policy: {name}"] = Figure.of(first[name])
        rows[f"change of {name} by a quarter more pretraining"] = Figure.of(second[name] - first[name])
    return rows


def _install(directory: Path, rows: dict[str, Figure]) -> None:
    """Replaces the package's weights by those of the build, with their quality table."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    for source, target in (("policy/base", "policy"), ("clap", "clap"), ("judge", "judge"), ("detector", "detector")):
        shutil.copytree(directory / source, PACKAGE / target, ignore=shutil.ignore_patterns("done.json"))
    shutil.copy(directory / "decoder" / "vae.safetensors", PACKAGE / "policy")
    (PACKAGE / "QUALITY.md").write_text(
        "# Quality of the miniature\n\nMade by `python jobs/build_miniature.py --install`. Held-out scenes are "
        "combinations of sounds that no scene of the policy's pretraining has; the models that measure (detector and "
        "both CLAPs) have heard all combinations. The policy samples with 12 Euler steps and guidance 3; changes are "
        "paired.\n\n" + table(rows)
    )
    (PACKAGE / "quality.json").write_text(json.dumps({k: asdict(v) for k, v in rows.items()}, indent=2) + "\n")
    print(f"installed {directory_size(PACKAGE) / 1e6:.1f} MB into {PACKAGE}")


def _done(directory: Path, stage: str) -> bool:
    return (directory / stage / "done.json").is_file()


def _last_line(file: Path) -> str:
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    return lines[-1] if lines else "starting"


def _clock() -> Log:
    begun = time.monotonic()
    return lambda line: print(f"[{time.monotonic() - begun:6.0f} s] {line}", flush=True)


if __name__ == "__main__":
    run_main(main)

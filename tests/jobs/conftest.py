"""A run directory as ``jobs/crpo.py`` leaves it, with made-up figures and real FLAC files of sine sweeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.storage.metrics import MetricsLog
from actors.storage.samples import SampleFolder
from tangoflux.data.flac import encode_flac

PROMPTS = (
    "A rising chirp, then a bell rings twice",
    "Three loud beeps before a long low rumble",
    "A dog barks while hiss is heard in the background",
    "<script>document.title='pwned'</script><img src=x onerror=alert(1)> & a \"drum\"",
    "A siren after a click train",
    "鳥のさえずりと ドラム 🥁",
)

CONFIG: dict[str, Any] = {
    "init_policy": "miniature",
    "prompts": None,
    "seed": 0,
    "iterations": 3,
    "prompts_per_iteration": 96,
    "num_samples": 5,
    "objective": "crpo",
    "data": "online",
    "sampling": {"num_steps": 12, "guidance_scale": 3.0, "negative_prompt": "", "duration_s": 2.0},
    "rollouts": {"workers": 2, "chunk_prompts": 16, "threads": 1, "latents_dtype": "float32"},
    "rewards": {"name": "miniature-clap", "judge": "miniature-judge", "detector": "miniature-detector"},
    "learner": {"beta": 2000.0, "learning_rate": 4e-05, "batch_size": 16, "epochs": 8, "adam_betas": [0.9, 0.95]},
    "heldout": {"num_prompts": 128, "seed": 1234, "num_audio_samples": 12},
}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes a run directory under ``tmp_path``; see ``write_run``."""
    return lambda **options: write_run(tmp_path / "run", **options)


def write_run(directory: Path, iterations: int = 3, ended: bool = True, prompts: int = 6, rate: int = 16000) -> Path:
    """A run of ``iterations`` after the base (0: only the base), with ``prompts`` prompts to listen to."""
    rng = np.random.default_rng(0)
    log, samples = MetricsLog(directory / "metrics.jsonl"), SampleFolder(directory / "samples")
    machine = {"cpus": 2, "memory_gb": 7.7, "gpus": [], "python": "3.11.7", "torch": "2.14.1", "ray": "2.60.0"}
    log.write("run", command=["python", "jobs/crpo.py", "--seed", "0"], seed=0, config=CONFIG, machine=machine)
    for iteration in range(iterations + 1):
        for step in range(48 if iteration else 0):
            log.write("step", **step_event(rng, iteration, step))
        log.write("iteration", **iteration_event(rng, iteration))
        for index in range(prompts):
            waveform = sweep(rng, index, iteration, rate)
            figures = {"reward": 0.3 + 0.02 * iteration + rng.normal(0, 0.06), "judge": 0.28, "exact": iteration % 2}
            figures |= {"recall": 0.5, "order": 1.0}
            samples.write(iteration, f"p{index:06d}", PROMPTS[index % 6], 2.0, encode_flac(waveform, rate), figures)
    if ended:
        log.write("end", seconds=331.2, iterations=iterations)
    return directory


def step_event(rng: np.random.Generator, iteration: int, step: int) -> dict[str, Any]:
    progress = iteration - 1 + step / 48
    margin = 0.35 * (step / 48) * (1 + 0.4 * iteration) + rng.normal(0, 0.15)
    return {
        "iteration": iteration,
        "step": step,
        "epoch": step // 6,
        "loss": math.log(1 + math.exp(-margin)) + 0.62,
        "dpo_loss": math.log(1 + math.exp(-margin)),
        "winner_loss": 0.62 + 0.004 * progress + rng.normal(0, 0.02),
        "loser_loss": 0.63 + 0.011 * progress + rng.normal(0, 0.02),
        "margin": margin,
        "implicit_accuracy": float(np.clip(0.5 + 0.3 * step / 48 + rng.normal(0, 0.08), 0, 1)),
        "learning_rate": 4e-05,
        "grad_norm": 3.0 - step / 40 + abs(rng.normal(0, 0.4)),
        "seconds": 1.1,
    }


def iteration_event(rng: np.random.Generator, iteration: int) -> dict[str, Any]:
    def figure(base: float, gain: float, error: float) -> dict[str, float | None]:
        delta = gain * iteration**0.7
        return {"mean": base + delta, "se": error, "delta": delta, "delta_se": error * 0.6 if iteration else 0.0}

    heldout = {"reward": figure(0.312, 0.024, 0.014), "judge": figure(0.287, 0.013, 0.013)}
    heldout["recall"] = figure(0.757, -0.018, 0.016)
    heldout["background"] = figure(0.371, -0.08, 0.03)
    heldout["exact"] = figure(0.414, 0.004, 0.044)
    event = {
        "iteration": iteration,
        "policy_version": iteration,
        "heldout": heldout,
        "heldout_by_shape": {"then": heldout, "three": {"reward": heldout["reward"]}} if iteration else {},
        "alarm": ["recall"] if iteration > 1 else [],
        "seconds": {"held-out": 9.4 + rng.normal(0, 0.4)},
    }
    if iteration == 0:
        return event
    ends = {"start": 2.6, "end": 1.4}
    return event | {
        "pairs": {"made": 91 - iteration, "tied": 3 + iteration, "dropped": 2, "reasons": {"not finite": 2}},
        "seconds": {"rollouts": 12.6, "pairs": 0.4, "learner": 58.0 + iteration, "publish": 1.2, "held-out": 9.4},
        "reward_components": {"clap": 0.31 + 0.02 * iteration, "<share>": None if iteration == 1 else 0.5},
        "group_spread": 0.092 - 0.004 * iteration,
        "diversity": 1.21 - 0.02 * iteration,
        "silent_share": 0.004,
        "clipped_share": 0.002 * iteration,
        "samples_per_second": 38.2,
        "heldout_pair_accuracy": 0.55 + 0.03 * iteration,
        "grad_norm": {"dpo": ends, "winner": {"start": 0.35, "end": 0.31}},
    }


def sweep(rng: np.random.Generator, index: int, iteration: int, rate: int) -> NDArray[np.float32]:
    """(1, 2 * rate) samples: a sweep, a few beeps and some noise that fades with the iteration."""
    time = np.arange(2 * rate) / rate
    pitch = 300 + 500 * index + (1800 - 300 * index) * time / 2
    tone = 0.4 * np.sin(2 * np.pi * np.cumsum(pitch) / rate) * (time < 1.1)
    beeps = 0.3 * np.sin(2 * np.pi * (900 + 400 * index) * time) * ((time * 4) % 1 < 0.5) * (time > 1.2)
    return (tone + beeps + rng.normal(0, 0.03 / (1 + iteration), len(time)))[None].astype(np.float32)

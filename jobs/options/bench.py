"""Options of `python jobs/bench.py`: of its measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from actors.learner.objectives import OBJECTIVES
from actors.options.command_line import Command
from actors.options.schema import REQUIRED, Options, option
from jobs.options.sections import LocalPath, Objective
from tangoflux.sampling_params import MAX_NUM_STEPS, Precision

JsonOutput = Annotated[LocalPath | None, option(None, "JSON file to write all measurements to")]
Rounds = Annotated[int, option(5, "timed runs of each side", unit="rounds", ge=1)]
Positive = Annotated[int, Field(ge=1)]

SECTIONS = ("rollouts", "training", "audio")


class SpeedOptions(Options):
    """Options of the speed measurement."""

    size: Literal["tiny", "mid", "full"] = option("mid", "size of the model and of the work")
    device: Literal["cpu", "cuda"] = option("cpu", "device to compute on")
    precision: Precision = option("auto", "our precision; auto: bf16 if the processor has instructions for it")
    compile: bool = option(False, "compile the blocks of our transformer; needs a C++ compiler")
    rounds: Rounds = 5
    num_steps: int | None = option(
        None, "Euler steps of a sample", unit="steps", default_text="tiny 2, mid 4, full 50", ge=1, le=MAX_NUM_STEPS
    )
    batches: tuple[Positive, ...] | None = option(
        None,
        "numbers of prompts that our rollouts sample together, 5 samples each",
        default_text="tiny 1 2, mid 1 4, full 1 8 16",
        allowed="whole numbers of at least 1",
    )
    only: tuple[Literal["rollouts", "training", "audio"], ...] = option(
        SECTIONS, "what to measure", allowed=f"some of {', '.join(SECTIONS)}"
    )
    published: LocalPath | None = option(
        None, "clone of github.com/declare-lab/TangoFlux to measure", default_text="its steps, reimplemented plainly"
    )
    output: JsonOutput = None
    table: LocalPath | None = option(None, "print the table of this file of --output, and measure nothing")


SPEED = Command(
    "python jobs/bench.py",
    """\
Measures this code's speed next to the published code's: rollouts, CRPO training steps, single audios. Other
measurements have options of their own: python jobs/bench.py orchestration|overlap|serve|objectives|best-of --help.

Both sides have the same random weights and do the same work on the same number of frames, in turn, round after round;
ratios are taken within a round, so that they hold on a busy machine too. The published side samples one prompt at a
time, in float32, with VAE and text encoder in every training step. Each side's operation count is also given as a share
of the fastest matrix product measured on this machine.

Needs torch, diffusers, transformers, pyarrow, pydantic and obstore, but neither Ray nor DeepSpeed, so it runs in the
environment of the published code: from a source tree, PYTHONPATH=. python jobs/bench.py.
Sizes: tiny (a trial of seconds), mid (11M parameters, minutes on a CPU), full (the paper's 517M, for a GPU).""",
    """\
examples:
  python jobs/bench.py --output benchmarks/cpu-mid.json         a few minutes on a CPU
  python jobs/bench.py --published path/to/TangoFlux            next to a clone of the published code itself
  python jobs/bench.py --size full --device cuda --compile      the paper's model on a GPU
  python jobs/bench.py --table benchmarks/cpu-mid.json          Markdown of an earlier measurement
""",
)


class OrchestrationOptions(Options):
    """Options of the orchestration measurement."""

    rollout_workers: int = option(64, "rollout workers, each a process of 0.1 GB", unit="processes", ge=1)
    num_prompts: int = option(20_000, "prompts of the iteration; the default is the paper's", unit="prompts", ge=1)
    num_samples: int = option(5, "samples of each prompt; the default is the paper's", unit="samples", ge=1)
    rollout_chunk_prompts: int = option(8, "prompts of a chunk; the default is that of --config tangoflux", ge=1)
    latent_frames: int = option(1, "frames of a sample's latents; the paper's model has 645", unit="frames", ge=1)
    latent_channels: int = option(1, "channels of the latents; the paper's model has 64", unit="channels", ge=1)
    bank_lines: int = option(1_000_000, "size of the prompt bank", unit="prompts", ge=1)
    output: JsonOutput = None

    @model_validator(mode="after")
    def _check_consistency(self) -> OrchestrationOptions:
        if self.bank_lines < self.num_prompts:
            raise ValueError(f"--bank-lines {self.bank_lines} is less than --num-prompts {self.num_prompts}; raise it")
        return self


ORCHESTRATION = Command(
    "python jobs/bench.py orchestration",
    """\
Measures what orchestration costs the driver of a run: its pools, with a real writer, and rollout and reward workers
that return at once, over a small and a large prompt bank. With latents of the paper's size it shows how many of the
stored bytes pass through the driver.""",
    """\
examples:
  python jobs/bench.py orchestration
  python jobs/bench.py orchestration --rollout-workers 8 --bank-lines 20000 --output costs.json
  python jobs/bench.py orchestration --rollout-workers 2 --num-prompts 512 --bank-lines 1000 \\
    --latent-frames 645 --latent-channels 64
""",
)


class OverlapOptions(Options):
    """Options of the overlap measurement."""

    rounds: Rounds = 3


OVERLAP = Command(
    "python jobs/bench.py overlap",
    """\
Measures how far ranking and writing are hidden behind sampling: the time of a rollout stage as a multiple of the time
of its sampling alone. All other options are those of jobs/crpo.py.""",
    """\
examples:
  python jobs/bench.py overlap                              the default config's stage, three times
  python jobs/bench.py overlap --rounds 5 --num-steps 25
""",
)


class LoadOptions(Options):
    """Options of the endpoint's measurement."""

    policy: str = option("miniature", "policy to serve: a directory, a name or owner/name on the hub", min_length=1)
    url: str | None = option(None, "running endpoint to measure, with the same policy", default_text="start one")
    seconds: float = option(60.0, "time of each load", unit="seconds", gt=0)
    clients: tuple[Positive, ...] = option(
        (1, 2, 4, 8, 16, 32), "numbers of concurrent clients", allowed="whole numbers of at least 1"
    )
    threads: int = option(2, "CPU threads of the policy, alone and served", ge=1)


LOAD = Command(
    "python jobs/bench.py serve",
    "Measures the endpoint under load, next to the bare model called one request at a time in the same run.",
    """\
examples:
  python jobs/bench.py serve                                      the miniature; a few minutes
  python jobs/bench.py serve --seconds 10 --clients 1 16          shorter
  python jobs/bench.py serve --url http://127.0.0.1:8000          a running endpoint
""",
)

RunDirs = Annotated[
    tuple[LocalPath, ...],
    option(
        REQUIRED,
        "directories on this machine of runs of jobs/crpo.py on the sound world's prompts",
        flag="local-run",
        positional=True,
    ),
]


class HeldoutSamples(Options):
    """Held-out prompts of the sound world that are sampled to compare policies."""

    heldout_split: Literal["dev", "test"] = option("test", "which of the sound world's held-out prompts")
    heldout_num_prompts: int = option(192, "number of held-out prompts", unit="prompts", ge=2)
    heldout_num_samples: int = option(2, "samples of each", unit="samples", ge=1)


class ObjectivesOptions(HeldoutSamples):
    """Options of the comparison of objectives."""

    run_dirs: RunDirs
    objectives: tuple[Objective, ...] = option(
        tuple(OBJECTIVES), "what to compare", allowed=f"some of {', '.join(OBJECTIVES)}"
    )
    paper_loss: bool = option(
        False, "the loss as the papers have it, without guidance and at their noise levels, instead of the runs' own"
    )
    learning_rate: float | None = option(None, "instead of the runs' own", gt=0)
    output: LocalPath = option(
        Path("objectives.jsonl"), "file with each training's figures; the same command goes on with what it lacks"
    )


OBJECTIVES_COMMAND = Command(
    "python jobs/bench.py objectives",
    """\
Compares objectives: each trains the base policy of a run on the rollouts of its first iteration, with the run's other
options, and is measured on held-out prompts, paired with the base policy. The first rows have an equal training budget:
so many epochs that all train on the same number of samples. An objective that trains on more or fewer than two samples
of a group is trained again with the run's epochs: an equal sampling budget. With several runs, for example of several
seeds, errors are over runs. Each training is one process with one CPU; they run side by side.""",
    """\
examples:
  python jobs/bench.py objectives runs/seed-0 runs/seed-1 runs/seed-2
  python jobs/bench.py objectives runs/a --objectives crpo dgpo --heldout-split dev
  python jobs/bench.py objectives runs/a --objectives expert_iteration --paper-loss --learning-rate 5e-5
""",
)


class BestOfOptions(HeldoutSamples):
    """Options of the measurement of the best of N."""

    run_dirs: RunDirs
    heldout_num_prompts: int = option(128, "number of held-out prompts", unit="prompts", ge=2)
    heldout_num_samples: int = option(16, "samples of each", unit="samples", ge=1)
    sizes: tuple[Positive, ...] = option(
        (1, 4, 16), "numbers of samples of which the best is taken", allowed="whole numbers of at least 1"
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> BestOfOptions:
        if max(self.sizes) > self.heldout_num_samples:
            raise ValueError(
                f"--sizes {max(self.sizes)} is more than --heldout-num-samples {self.heldout_num_samples}; raise it"
            )
        return self


BEST_OF = Command(
    "python jobs/bench.py best-of",
    """\
Measures how much of what the best of N samples gains alignment has taken into the weights: the best of N by the run's
reward, of its base policy and of its result, on held-out prompts with the same noise.""",
    """\
examples:
  python jobs/bench.py best-of runs/a
  python jobs/bench.py best-of runs/seed-0 runs/seed-1 --sizes 1 2 4 8
""",
)

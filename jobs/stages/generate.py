"""Generates audio files: samples each prompt, ranks the samples if there is a reward, and writes the files."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from actors.storage.atomic import atomic_write
from actors.storage.json_lines import JsonLines
from jobs.options.generate import GenerateOptions
from jobs.stages.generated_files import RECORD, check_existing, record, settings_of
from jobs.stages.output_dir import RESUME
from jobs.stages.run_dir import check_writable_file
from tangoflux.cli import resumable
from tangoflux.data.prompts import Prompt, load_prompts
from tangoflux.errors import ConfigError
from tangoflux.pipeline import TangoFlux
from tangoflux.rewards import Reward, best_first, check_reward, load_reward, score

DEFAULT_DURATION_S = 10.0


@dataclass(frozen=True)
class PromptFiles:
    """A prompt and the files for its samples."""

    prompt: Prompt
    files: tuple[Path, ...]


def run(options: GenerateOptions) -> None:
    """Checks what can be checked first, then generates; prints a line per file."""
    if options.best_of is not None:
        check_reward(options.reward)
    model = TangoFlux.from_pretrained(options.policy)
    items = plan(options, model.policy.config.max_duration)
    if not items:
        print(f"nothing to do: {options.output} has the audio of all prompts")
        return
    device = device_of(options)
    reward = load_reward(options.reward, device, options.reward_combination) if options.best_of is not None else None
    model = model.to(device)
    log = JsonLines(options.output / RECORD) if options.prompts else None
    with progress(len(items)) as advance, resumable(RESUME) if log else nullcontext():
        for item in items:
            for line in write_samples(item, model, reward, options, advance, log):
                print(line, flush=True)


def plan(options: GenerateOptions, max_duration_s: float) -> list[PromptFiles]:
    """The files to write; existing files are overwritten only with ``--overwrite``.

    Raises:
        TangoFluxError: a prompt or duration is not allowed, or a file exists or cannot be written.
    """
    duration_s = min(DEFAULT_DURATION_S, max_duration_s) if options.duration_s is None else options.duration_s
    if duration_s > max_duration_s:
        raise ConfigError(f"--duration-s {duration_s:g} must be at most the policy's {max_duration_s:g} seconds")
    if options.prompt is not None:
        items = [PromptFiles(Prompt("prompt", options.prompt, duration_s), _files(options.output, options.num_samples))]
    else:
        assert options.prompts is not None
        prompts = load_prompts(options.prompts, duration_s, max_duration_s)
        items = [PromptFiles(p, _files(options.output / f"{p.id}.flac", options.num_samples)) for p in prompts]
    for file in (file for item in items for file in item.files):
        check_writable_file(file, "output")
    if options.overwrite:
        return items
    existing = [file for item in items for file in item.files if file.exists()]
    if existing and options.prompt is not None:
        raise ConfigError(f"{existing[0]} exists; pass --overwrite, or name another file")
    if options.prompts is not None:
        # The same command again resumes.
        check_existing(
            options.output, [(file, settings_of(item.prompt, options)) for item in items for file in item.files]
        )
    return [item for item in items if not all(file.exists() for file in item.files)]


def write_samples(
    item: PromptFiles,
    model: TangoFlux,
    reward: Reward | None,
    options: GenerateOptions,
    on_step: Callable[[float], None],
    log: JsonLines | None = None,
) -> Iterator[str]:
    """Generates and writes a prompt's samples; yields a line per file, with any reward, and one for the others.

    ``log`` gets what each file was made from.
    """
    [waveforms] = model.generate(
        item.prompt.text,
        item.prompt.duration_s,
        num_samples=options.best_of or options.num_samples,
        seed=options.seed,
        num_steps=options.num_steps,
        guidance_scale=options.guidance_scale,
        negative_prompt=options.negative_prompt,
        precision=options.precision,
        on_step=on_step,
    )
    ranked = _rank(item, waveforms, reward, model)
    for rank, (file, (waveform, value)) in enumerate(zip(item.files, ranked, strict=False), start=1):
        if log:
            record(log, file, settings_of(item.prompt, options))
        write_audio(file, waveform, model.sample_rate_hz)
        yield f"{file}  {reward.name} {value:.3f}, {rank} of {len(ranked)}" if reward else str(file)
    if len(ranked) > len(item.files):
        yield f"  not kept: {' '.join(f'{value:.3f}' for _, value in ranked[len(item.files) :])}"


def _rank(
    item: PromptFiles, waveforms: Sequence[NDArray[np.float32]], reward: Reward | None, model: TangoFlux
) -> list[tuple[NDArray[np.float32], float]]:
    """The waveforms with their rewards, the best first if there is a reward model."""
    if reward is None:
        return [(waveform, math.nan) for waveform in waveforms]
    scores = score(reward, [item.prompt.text] * len(waveforms), waveforms, model.sample_rate_hz)
    return [(waveforms[index], float(scores[index])) for index in best_first(scores)]


def write_audio(file: Path, waveform: NDArray[np.float32], sample_rate_hz: int) -> None:
    """Writes (channels, samples) atomically, in the format of the file name's suffix."""
    content = io.BytesIO()
    soundfile.write(content, waveform.T, sample_rate_hz, format=file.suffix[1:])
    with atomic_write(file) as temporary:
        temporary.write_bytes(content.getvalue())


@contextmanager
def progress(prompts: int) -> Generator[Callable[[float], None]]:
    """A progress bar on stderr, if that is a terminal; yields a function that takes the finished share of a prompt."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task, finished = bar.add_task("sampling", total=prompts), 0

        def advance(share: float) -> None:
            nonlocal finished
            bar.update(task, completed=finished + share)
            finished += share == 1

        yield advance


def device_of(options: GenerateOptions) -> str:
    """The device to compute on.

    Raises:
        ConfigError: there is no such device.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no GPU on this machine; leave the option out")
    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _files(file: Path, num_samples: int) -> tuple[Path, ...]:
    if num_samples == 1:
        return (file,)
    return tuple(file.with_stem(f"{file.stem}-{number}") for number in range(1, num_samples + 1))

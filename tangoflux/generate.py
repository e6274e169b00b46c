"""The command ``tangoflux generate``: audio files for one prompt, or for those of a file."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tangoflux.cli import run_main
from tangoflux.data.prompts import Prompt, load_prompts
from tangoflux.errors import ConfigError
from tangoflux.sampling_params import MAX_NUM_STEPS, SamplingParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tangoflux.pipeline import TangoFlux
    from tangoflux.rewards import Reward

DESCRIPTION = "Makes audio files from text with a TangoFlux model."

EXAMPLES = """\
examples:
  tangoflux generate "a dog barks" dog.flac
  tangoflux generate "a dog barks, then a bell rings" out.wav --duration 3 --num-samples 4    out-1.wav to out-4.wav
  tangoflux generate "a dog barks" best.flac --best-of 10                  the one that CLAP likes best
  tangoflux generate --prompts mine.txt folder --model runs/a/policies/v0003    folder/<id>.flac
"""

SUFFIXES = (".flac", ".wav", ".ogg", ".mp3")
DEFAULT_DURATION_S = 10.0


@dataclass(frozen=True)
class Wish:
    """A prompt and the files for its samples."""

    prompt: Prompt
    files: tuple[Path, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Checks the arguments, then writes the files, prompt by prompt."""
    arguments = parse(argv)
    # torch takes seconds to import, which --help and a mistyped option need not wait for.
    from tangoflux.pipeline import TangoFlux
    from tangoflux.rewards import check_reward, load_reward

    if arguments.best_of:
        check_reward(arguments.reward)
    model = TangoFlux.from_pretrained(arguments.model)
    wishes = plan(arguments, model.policy.config.max_duration)
    reward = load_reward(arguments.reward, device_of(arguments)) if arguments.best_of else None
    model = model.to(device_of(arguments))
    with progress(len(wishes)) as advance:
        for wish in wishes:
            for line in fulfil(wish, model, reward, arguments, advance):
                print(line, flush=True)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, as far as they can be checked without a model.

    Raises:
        ConfigError: one is not allowed; names it and the fix.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if (arguments.prompt is None) == (arguments.prompts is None):
        parser.error("give either a prompt, as the first argument, or --prompts FILE")
    if arguments.prompt is not None and not arguments.prompt.strip():
        parser.error("the prompt is blank")
    if arguments.prompt is not None and arguments.output.suffix.lower() not in SUFFIXES:
        parser.error(f"output {arguments.output} must end in one of {', '.join(SUFFIXES)}")
    if arguments.best_of and arguments.best_of < arguments.num_samples:
        parser.error(f"--best-of {arguments.best_of} is less than --num-samples {arguments.num_samples}")
    return arguments


def plan(arguments: argparse.Namespace, max_duration_s: float) -> list[Wish]:
    """What is to be made; nothing is overwritten without ``--overwrite``.

    Raises:
        TangoFluxError: a prompt or duration is not allowed, or a file is there already.
    """
    given = arguments.duration
    duration_s = min(DEFAULT_DURATION_S, max_duration_s) if given is None else given
    if not 0 < duration_s <= max_duration_s:
        raise ConfigError(
            f"--duration {duration_s:g} must be above 0 and at most the model's {max_duration_s:g} seconds"
        )
    if arguments.prompts is None:
        wishes = [Wish(Prompt("prompt", arguments.prompt, duration_s), _files(arguments.output, arguments))]
    else:
        prompts = load_prompts(arguments.prompts, duration_s, max_duration_s)
        wishes = [Wish(prompt, _files(arguments.output / f"{prompt.id}.flac", arguments)) for prompt in prompts]
    for folder in {file.parent for wish in wishes for file in wish.files}:
        _check_folder(folder)
    if arguments.overwrite:
        return wishes
    there = [file for wish in wishes for file in wish.files if file.exists()]
    if there and arguments.prompts is None:
        raise ConfigError(f"{there[0]} exists; pass --overwrite, or name another file")
    # The same command again makes what a broken one had not.
    return [wish for wish in wishes if not all(file.exists() for file in wish.files)]


def _check_folder(folder: Path) -> None:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError(f"{folder} cannot be written to: {there} is {'not ours' if there.is_dir() else 'a file'}")


def fulfil(
    wish: Wish, model: TangoFlux, reward: Reward | None, arguments: argparse.Namespace, advance: Callable[[float], None]
) -> Iterator[str]:
    """Makes and writes a prompt's samples; yields a line a file, with any reward, and one for the rest."""
    [waveforms] = model.generate(
        wish.prompt.text,
        wish.prompt.duration_s,
        num_samples=max(arguments.num_samples, arguments.best_of),
        seed=arguments.seed,
        num_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        negative_prompt=arguments.negative_prompt,
        precision=arguments.precision,
        on_step=advance,
    )
    ranked = _ranked(wish, waveforms, reward, model)
    for rank, (file, (waveform, score)) in enumerate(zip(wish.files, ranked, strict=False), start=1):
        write_audio(file, waveform, model.sample_rate_hz)
        yield f"{file}  {reward.name} {score:.3f}, {rank} of {len(ranked)}" if reward else str(file)
    if len(ranked) > len(wish.files):
        yield f"  not kept: {' '.join(f'{score:.3f}' for _, score in ranked[len(wish.files) :])}"


def _ranked(
    wish: Wish, waveforms: Sequence[NDArray[np.float32]], reward: Reward | None, model: TangoFlux
) -> list[tuple[NDArray[np.float32], float]]:
    """The waveforms with their rewards, the best first where they are ranked."""
    if reward is None:
        return [(waveform, math.nan) for waveform in waveforms]
    from tangoflux.rewards import best_first, score

    scores = score(reward, [wish.prompt.text] * len(waveforms), waveforms, model.sample_rate_hz)
    return [(waveforms[index], float(scores[index])) for index in best_first(scores)]


def write_audio(file: Path, waveform: NDArray[np.float32], sample_rate_hz: int) -> None:
    """Writes (channels, samples) in the format that the name ends in."""
    import soundfile

    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.partial{file.suffix}")
    soundfile.write(str(temporary), waveform.T, sample_rate_hz)
    temporary.replace(file)


@contextmanager
def progress(prompts: int) -> Generator[Callable[[float], None]]:
    """A progress bar over all prompts on stderr, where that is a terminal; gives what tells it of a prompt's share."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task, finished = bar.add_task("sampling", total=prompts), 0

        def advance(share: float) -> None:
            nonlocal finished
            bar.update(task, completed=finished + share)
            finished += share == 1

        yield advance


def device_of(arguments: argparse.Namespace) -> str:
    """Where to compute.

    Raises:
        ConfigError: there is no such device.
    """
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no GPU that torch can use; leave the option out")
    return arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _files(file: Path, arguments: argparse.Namespace) -> tuple[Path, ...]:
    if arguments.num_samples == 1:
        return (file,)
    return tuple(file.with_stem(f"{file.stem}-{number}") for number in range(1, arguments.num_samples + 1))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message.removeprefix('argument ')}; see tangoflux generate --help")


def _parser() -> argparse.ArgumentParser:
    top = _Parser(prog="tangoflux", description="Text to audio with TangoFlux.", allow_abbrev=False)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parser = commands.add_parser(
        "generate",
        help="make audio files from text",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28),
        allow_abbrev=False,
    )
    add: Any = parser.add_argument
    add("prompt", nargs="?", help="what is to be heard")
    add("output", type=Path, help=f"the file ({', '.join(SUFFIXES)}), or with --prompts the folder")
    add("--prompts", type=Path, metavar="FILE", help="many prompts: .txt, or .jsonl or .csv with a prompt a row")
    add(
        "--model", default="miniature", metavar="NAME", help="a directory, a name, or owner/name on the hub [miniature]"
    )
    add("--duration", type=_finite, metavar="S", help="seconds [10, or the most that the model can make]")
    add("--steps", type=_count, default=SamplingParams.num_steps, metavar="N", help="Euler steps [%(default)s]")
    add(
        "--guidance",
        type=_finite,
        default=SamplingParams.guidance_scale,
        metavar="X",
        help="classifier-free guidance; 1 or less is none [%(default)s]",
    )
    add("--negative-prompt", default="", metavar="TEXT", help="what the audio is to be unlike")
    add("--seed", type=int, default=0, metavar="N", help="the same seed gives the same audio [0]")
    # One batch holds all samples of a prompt, so their number is bounded.
    add("--num-samples", type=_samples, default=1, metavar="N", help="audios of each prompt [1]")
    add("--best-of", type=_samples, default=0, metavar="N", help="samples so many, keeps the best by --reward")
    add("--reward", default="miniature-clap", metavar="NAME", help="reward model for --best-of [miniature-clap]")
    add("--device", choices=("cpu", "cuda"), help="[cuda where there is one]")
    add("--precision", choices=("auto", "fp32", "bf16"), help="[fp32 on a CPU, on a GPU bf16 where it has that]")
    add("--overwrite", action="store_true", help="replace files that exist")
    return top


def _count(text: str, most: int = MAX_NUM_STEPS) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {most}")
    return int(text)


def _samples(text: str) -> int:
    return _count(text, most=100)


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def command() -> NoReturn:
    """The console script ``tangoflux``."""
    run_main(main)


if __name__ == "__main__":
    command()

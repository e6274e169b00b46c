"""Options of `tangoflux generate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import model_validator

from actors.options.command_line import Command
from actors.options.reward_combination import RewardCombination
from actors.options.schema import REQUIRED, Options, option
from jobs.options.sections import GuidanceScale, LocalPath, NegativePrompt, NumSteps
from tangoflux.sampling_params import MIN_DURATION_S, Precision, SamplingParams

DESCRIPTION = "Generates audio files from text."

EXAMPLES = """\
examples:
  tangoflux generate "a dog barks" dog.flac
  tangoflux generate "a dog barks, then a bell rings" out.wav --duration-s 3 --num-samples 4    out-1.wav to out-4.wav
  tangoflux generate "a dog barks" best.flac --best-of 10                     keeps the one that CLAP ranks first
  tangoflux generate --prompts mine.txt folder --policy runs/a/policies/v0003    folder/<id>.flac
"""

COMMAND = Command("tangoflux generate", DESCRIPTION, EXAMPLES)

SUFFIXES = (".flac", ".wav", ".ogg", ".mp3")

Device = Annotated[
    Literal["cpu", "cuda"] | None, option(REQUIRED, "device to compute on", default_text="cuda if there is one")
]


class GenerateOptions(Options):
    """All options of the command."""

    prompt: str | None = option(None, "the text", default_text="those of --prompts", positional=True)
    output: LocalPath = option(
        REQUIRED, f"file to write ({', '.join(SUFFIXES)}); a folder with --prompts", positional=True
    )
    prompts: LocalPath | None = option(None, "many prompts: .txt, one a line, or .jsonl or .csv with prompt")
    policy: str = option("miniature", "policy that samples: a directory, a name or owner/name on the hub", min_length=1)
    duration_s: float | None = option(
        None, "length of the audio", unit="seconds", default_text="10, or the policy's longest", ge=MIN_DURATION_S
    )
    num_steps: NumSteps = SamplingParams.num_steps
    guidance_scale: GuidanceScale = SamplingParams.guidance_scale
    negative_prompt: NegativePrompt = SamplingParams.negative_prompt
    seed: int = option(0, "seed of the noise; the same seed gives the same audio", ge=0, lt=2**63)
    # One batch holds all samples of a prompt, so their number is bounded.
    num_samples: int = option(1, "audios to write for each prompt", unit="samples", ge=1, le=100)
    best_of: int | None = option(
        None, "samples of which to keep the --num-samples with the highest reward", unit="samples", ge=1, le=100
    )
    reward: str = option("miniature-clap", "reward model of --best-of", min_length=1)
    reward_combination: RewardCombination = "sum"
    device: Device = None
    precision: Precision | None = option(
        None, "precision of the sampling", default_text="fp32 on a CPU, bf16 on a GPU that has it"
    )
    overwrite: bool = option(False, "replace existing files")

    @model_validator(mode="after")
    def _check_consistency(self) -> GenerateOptions:
        if (self.prompt is None) == (self.prompts is None):
            raise ValueError("give either a prompt, as the first argument, or --prompts FILE")
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("the prompt is blank")
        if self.prompt is not None and self.output.suffix.lower() not in SUFFIXES:
            raise ValueError(f"output {self.output} must end in one of {', '.join(SUFFIXES)}")
        if self.best_of is not None and self.best_of < self.num_samples:
            raise ValueError(f"--best-of {self.best_of} is less than --num-samples {self.num_samples}")
        return self

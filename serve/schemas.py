"""The requests and answers, as OpenAPI shows them. Limits that are options are checked in ``service.py``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from tangoflux.sampling_params import MAX_GUIDANCE_SCALE, MAX_NUM_STEPS, SamplingParams

AudioFormat = Literal["wav", "flac", "mp3", "ogg"]

MAX_SEED = 2**53 - 1
"""What JavaScript's numbers hold exactly."""

Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Guidance = Annotated[float, Field(ge=0, le=MAX_GUIDANCE_SCALE, allow_inf_nan=False)]


class Strict(BaseModel):
    """Unknown fields and other types are refused: a misspelt field would be ignored without a word."""

    model_config = ConfigDict(extra="forbid", strict=True)


class GenerateRequest(Strict):
    """Text to audio; the fields are named as in vLLM-Omni."""

    input: str = Field(
        validation_alias=AliasChoices("input", "prompt"),
        min_length=1,
        description="what is to be heard (also: prompt)",
        examples=["a dog barks twice then a bell rings"],
    )
    model: str = Field("latest", max_length=64, description="latest, base, or a version such as v0001")
    response_format: AudioFormat = Field("wav", description="of the audio")
    audio_length: Seconds | None = Field(None, description="seconds; default 10, or the most that the policy can make")
    negative_prompt: str = Field("", description="what the audio is to be unlike, where there is guidance")
    guidance_scale: Guidance = Field(
        SamplingParams.guidance_scale, description="classifier-free guidance; 1 or less is none"
    )
    num_inference_steps: int | None = Field(
        None,
        ge=1,
        le=MAX_NUM_STEPS,
        description=f"Euler steps; default {SamplingParams.num_steps}, or the most that are allowed",
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="sample k has seed + k; default a random one")
    n: int = Field(1, ge=1, le=100, description="samples")
    best_of: int | None = Field(None, ge=1, le=100, description="makes so many and gives the n that CLAP likes best")
    exact: bool = Field(False, description="computes the request alone: the same audio to the last bit, but slower")


class SoundGenerationRequest(Strict):
    """Text to audio, as ElevenLabs' clients ask for it."""

    text: str = Field(min_length=1, description="what is to be heard")
    duration_seconds: Seconds | None = Field(None, description="default 10, or the most that the policy can make")
    prompt_influence: float = Field(
        0.3, ge=0, le=1, allow_inf_nan=False, description="0 to 1, taken for a guidance of 1 to 10"
    )
    loop: Literal[False] = Field(False, description="loops cannot be made")
    model_id: str = Field("latest", max_length=64, description="latest, base, or a version such as v0001")


class Sample(BaseModel):
    """An audio."""

    audio: str = Field(description="base64")
    seed: int
    reward: float | None = Field(description="by the reward model; null where it gives none")


class GenerateResponse(BaseModel):
    """Audios as JSON, the best first where they are ranked."""

    model: str = Field(description="the version that made them")
    format: AudioFormat
    sample_rate: int
    audio_length: float
    num_inference_steps: int
    reward_model: str
    data: list[Sample]
    timing: dict[str, float] = Field(description="seconds in the queue, sampling, decoding and ranking")


class PolicyInfo(BaseModel):
    """A version of the policy."""

    version: str
    resident: bool = Field(description="in memory")
    measured_at: float | None = Field(None, description="unix seconds")
    heldout: dict[str, Any] | None = Field(None, description="what the run measured of it on its held-out prompts")
    refused: str | None = Field(None, description="why it is not served")


class PolicyList(BaseModel):
    """The versions and what they can."""

    latest: str
    base: str
    miniature: bool = Field(description="a miniature, for trying things out; not the paper's model")
    reward_model: str
    sample_rate: int
    max_duration: float
    limits: dict[str, int | float | None]
    policies: list[PolicyInfo]


class Health(BaseModel):
    """Whether requests are served."""

    status: Literal["ok", "starting"]
    version: str | None = Field(description="the latest policy that is served")
    sampling: int = Field(description="samples under way")
    waiting: int = Field(description="samples that wait")
    refused: dict[str, str] = Field(description="versions that are not served, and why")
    problem: str = Field(description="why no new versions can be seen, where that is so")


class ErrorBody(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Every answer that is no success."""

    error: ErrorBody

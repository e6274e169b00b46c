"""Requests and responses as OpenAPI shows them; limits that are options are checked in ``service.py``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from tangoflux.sampling_params import MAX_GUIDANCE_SCALE, MAX_NUM_STEPS, SamplingParams

AudioFormat = Literal["wav", "flac", "mp3", "ogg"]

MAX_SEED = 2**53 - 1
"""The largest integer that JavaScript's numbers hold exactly."""

DEFAULT_INFLUENCE = 0.3
"""The default of ElevenLabs' ``prompt_influence``."""

Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Guidance = Annotated[float, Field(ge=0, le=MAX_GUIDANCE_SCALE, allow_inf_nan=False)]


class Strict(BaseModel):
    """Refuses unknown fields and other types: a misspelt field would be silently ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)


class GenerateRequest(Strict):
    """A request for audio; the fields are named as in vLLM-Omni."""

    input: str = Field(
        validation_alias=AliasChoices("input", "prompt"),
        min_length=1,
        description="the prompt (also accepted as: prompt)",
        examples=["a dog barks twice then a bell rings"],
    )
    model: str = Field("latest", max_length=64, description="latest, base, or a version such as v0001")
    response_format: AudioFormat = Field("wav", description="audio file format")
    audio_length: Seconds | None = Field(
        None, description="seconds; default 10, or the policy's maximum if that is less"
    )
    negative_prompt: str = Field("", description="what the audio should not sound like; needs guidance above 1")
    guidance_scale: Guidance = Field(
        SamplingParams.guidance_scale, description="classifier-free guidance; 1 or less is off"
    )
    num_inference_steps: int | None = Field(
        None,
        ge=1,
        le=MAX_NUM_STEPS,
        description=f"Euler steps; default {SamplingParams.num_steps}, or the limit if that is less",
    )
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="seed of the first sample; sample k has seed + k; default random"
    )
    n: int = Field(1, ge=1, le=100, description="number of samples to return")
    best_of: int | None = Field(
        None, ge=1, le=100, description="number of samples to generate; the n with the highest rewards are returned"
    )
    exact: bool = Field(False, description="compute the request in its own batch: slower, but bit-identical audio")


class SoundGenerationRequest(Strict):
    """A request for audio in ElevenLabs' form."""

    text: str = Field(min_length=1, description="the prompt")
    duration_seconds: Seconds | None = Field(None, description="default 10, or the policy's maximum if that is less")
    prompt_influence: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="0 to 1, default 0.3; mapped to a guidance scale of 1 to 10"
    )
    loop: Literal[False] | None = Field(None, description="true is not supported")
    model_id: str | None = Field(
        None, max_length=64, description="latest, base, or a version such as v0001; ElevenLabs' own names mean latest"
    )

    def to_generate(self) -> GenerateRequest:
        """The same request in our form."""
        influence = DEFAULT_INFLUENCE if self.prompt_influence is None else self.prompt_influence
        own = self.model_id is None or self.model_id.startswith("eleven_")
        return GenerateRequest.model_validate(
            {
                "input": self.text,
                "model": "latest" if own else self.model_id,
                "audio_length": self.duration_seconds,
                "guidance_scale": 1 + 9 * influence,
            }
        )


ELEVENLABS_FIELDS = {"input": "text", "audio_length": "duration_seconds", "model": "model_id"}
"""What the fields of a ``GenerateRequest`` are called there, for errors."""


class Sample(BaseModel):
    """A sample."""

    audio: str = Field(description="the audio file in base64")
    seed: int
    reward: float | None = Field(description="the reward model's score; null if it has none")


class GenerateResponse(BaseModel):
    """Samples as JSON; with best_of above n the best, in order."""

    model: str = Field(description="the policy version that generated them")
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
    heldout: dict[str, Any] | None = Field(None, description="the run's metrics on held-out prompts")
    refused: str | None = Field(None, description="why it is not served")


class PolicyList(BaseModel):
    """The versions, their sampling rate and the limits."""

    latest: str
    base: str
    miniature: bool = Field(description="whether this is the miniature, for trials, and not the paper's model")
    reward_model: str
    sample_rate: int
    max_duration: float
    limits: dict[str, int | float | None]
    defaults: dict[str, int | float] = Field(description="values of the fields that a request leaves out")
    policies: list[PolicyInfo]


class Health(BaseModel):
    """Whether requests are served."""

    status: Literal["ok", "starting"]
    version: str | None = Field(description="the latest policy version served")
    sampling: int = Field(description="samples being generated")
    waiting: int = Field(description="samples waiting")
    refused: dict[str, str] = Field(description="versions that are not served, with the reasons")
    problem: str = Field(description="why versions are not found or samples not ranked; empty without a problem")


class ErrorBody(BaseModel):
    """An error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: ErrorBody

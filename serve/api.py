"""The endpoints. They know a service, and nothing of Ray."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from serve.audio import MEDIA_TYPES, OutputFormat, encode
from serve.errors import ApiError, invalid
from serve.guard import Guard
from serve.options import ServeOptions
from serve.schemas import (
    ErrorResponse,
    GenerateRequest,
    GenerateResponse,
    Health,
    PolicyList,
    Sample,
    SoundGenerationRequest,
)
from serve.service import Made, Service
from tangoflux.errors import TangoFluxError

logger = logging.getLogger(__name__)

DEFAULT = "mp3_44100_128"
"""ElevenLabs' own default."""

EVENT_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

PAGE = Path(__file__).parent / "static" / "index.html"

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        400: "a value is not allowed",
        401: "the API key is missing or wrong",
        404: "there is no such policy",
        408: "the body did not come in time",
        413: "the body is too large",
        422: "a field is missing, unknown or of the wrong type",
        503: "no room, or no policy yet; come back after Retry-After seconds",
    }.items()
}

AUDIO: dict[int | str, dict[str, Any]] = {
    200: {
        "model": GenerateResponse,
        "description": "the audio; with n above 1 or Accept: application/json as JSON",
        "content": {
            **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}


def _service(request: Request) -> Service:
    return request.app.state.service()


Served = Annotated[Service, Depends(_service)]

router = APIRouter()


@router.post("/v1/audio/generate", responses={**AUDIO, **ERRORS}, response_class=Response, tags=["audio"])
async def generate(body: GenerateRequest, request: Request, service: Served) -> Response:
    """Audio from text."""
    accept = request.headers.get("accept", "")
    if "text/event-stream" in accept:
        events = await _begun(_events(service, body))
        return StreamingResponse(events, headers=EVENT_HEADERS, media_type="text/event-stream")
    as_json = body.n > 1 or "application/json" in accept
    made = await service.generate(body, ranked=as_json)
    if as_json:
        answer = await asyncio.to_thread(_as_json, made, body, service)
        return JSONResponse(answer.model_dump(), headers=_headers(made))
    audio = await asyncio.to_thread(encode, made.result.waveforms[0], made.sample_rate_hz, body.response_format)
    return Response(audio, media_type=MEDIA_TYPES[body.response_format], headers=_headers(made))


@router.post("/v1/sound-generation", responses={**AUDIO, **ERRORS}, response_class=Response, tags=["audio"])
async def sound_generation(
    body: SoundGenerationRequest,
    service: Served,
    output_format: Annotated[str, Query(max_length=32)] = DEFAULT,
) -> Response:
    """Audio from text, for clients that were written for ElevenLabs."""
    wanted = OutputFormat.parse(output_format)
    made = await service.generate(_translated(body), ranked=False)
    audio = await asyncio.to_thread(wanted.encode, made.result.waveforms[0], made.sample_rate_hz)
    return Response(audio, media_type=wanted.media_type, headers=_headers(made))


@router.get("/v1/policies", responses={status: ERRORS[status] for status in (401, 503)}, tags=["policies"])
async def policies(service: Served) -> PolicyList:
    """The versions of the policy, and what was measured of them."""
    facts = await asyncio.to_thread(service.describe)
    return PolicyList.model_validate(facts)


@router.get("/health", responses={503: {"model": Health, "description": "no policy is loaded yet"}}, tags=["policies"])
async def health(service: Served, response: Response) -> Health:
    """Whether requests are served; needs no key."""
    found = Health.model_validate(service.health())
    response.status_code = 200 if found.status == "ok" else 503
    return found


@router.get("/", include_in_schema=False)
async def page() -> HTMLResponse:
    """The page to listen on."""
    return HTMLResponse(PAGE.read_text(encoding="utf-8"))


def build_api(service: Callable[[], Service], options: ServeOptions, key: str | None) -> FastAPI:
    """The ASGI application.

    Args:
        service: gives the replica's.
        key: SHA-256 of the API key, or None.
    """
    api = FastAPIOffline(title="TangoFlux", version="1", description="Text to audio.", redoc_url=None)
    api.state.service = service
    api.include_router(router)
    _add_error_handlers(api)
    limits = options.limits
    api.add_middleware(Guard, key_hash=key, max_body_bytes=limits.max_body_bytes, max_body_s=limits.max_body_s)
    # Outside the guard, since a browser asks without the key first, and should be able to read a refusal.
    if options.cors_origins:
        origins = [origin.strip() for origin in options.cors_origins.split(",")]
        every = ["*"]
        api.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=every, allow_headers=every, expose_headers=every
        )
    return api


async def _begun(events: AsyncGenerator[str]) -> AsyncIterator[str]:
    """The same, once there is a first event: what is refused at once has a status instead."""
    first = await anext(events)

    async def again() -> AsyncIterator[str]:
        async with aclosing(events):
            yield first
            async for event in events:
                yield event

    return again()


async def _events(service: Service, body: GenerateRequest) -> AsyncGenerator[str]:
    """Progress by step, then the audio or the error, as server-sent events.

    Raises:
        ApiError, TangoFluxError: before the first event.
    """
    loop = asyncio.get_running_loop()
    steps: asyncio.Queue[int | None] = asyncio.Queue()

    def tell(step: int | None) -> None:
        loop.call_soon_threadsafe(steps.put_nowait, step)

    task = asyncio.create_task(service.generate(body, ranked=True, on_step=tell))
    task.add_done_callback(lambda task: steps.put_nowait(None))
    begun = False
    try:
        while (step := await steps.get()) is not None:
            begun = True
            yield _event("progress", {"step": step, "steps": service.steps_of(body)})
        answer = await asyncio.to_thread(_as_json, await task, body, service)
        yield _event("audio", answer.model_dump())
    except Exception as error:
        if not begun:
            raise
        yield _event("error", _told(error).body())
    finally:
        task.cancel()


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _as_json(made: Made, body: GenerateRequest, service: Service) -> GenerateResponse:
    rewards = made.result.rewards or [math.nan] * len(made.seeds)
    samples = [
        Sample(
            audio=base64.b64encode(encode(waveform, made.sample_rate_hz, body.response_format)).decode(),
            seed=seed,
            reward=reward if math.isfinite(reward) else None,
        )
        for waveform, seed, reward in zip(made.result.waveforms, made.seeds, rewards, strict=True)
    ]
    return GenerateResponse(
        model=made.version,
        format=body.response_format,
        sample_rate=made.sample_rate_hz,
        audio_length=made.length_s,
        num_inference_steps=service.steps_of(body),
        reward_model=service.options.reward,
        data=samples,
        timing=vars(made.result.timing),
    )


def _headers(made: Made) -> dict[str, str]:
    timing = ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in vars(made.result.timing).items())
    return {
        "X-Policy-Version": made.version,
        "X-Seed": ",".join(map(str, made.seeds)),
        "Server-Timing": timing,
        "Cache-Control": "no-store",
    }


def _translated(body: SoundGenerationRequest) -> GenerateRequest:
    return GenerateRequest.model_validate(
        {
            "input": body.text,
            "model": body.model_id,
            "audio_length": body.duration_seconds,
            "guidance_scale": 1 + 9 * body.prompt_influence,
        }
    )


def _told(error: Exception) -> ApiError:
    """What who asked learns of an error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, TangoFluxError):
        return ApiError(500, "server_error", str(error), code="failed")
    logger.error("a request failed", exc_info=error)
    return ApiError(500, "server_error", "an error of the server; see its log")


def _add_error_handlers(api: FastAPI) -> None:
    """All answers that are no success have one form."""

    @api.exception_handler(ApiError)
    async def of_ours(request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers)

    @api.exception_handler(RequestValidationError)
    async def of_fields(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        message = f"{place or 'the body'}: {first['msg']}"
        return JSONResponse(invalid(message, place or None, first["type"]).body(), 422)

    @api.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        body = ApiError(error.status_code, kind, str(error.detail), code="http").body()
        return JSONResponse(body, error.status_code, error.headers)

    @api.exception_handler(TangoFluxError)
    async def of_models(request: Request, error: TangoFluxError) -> JSONResponse:
        return JSONResponse(_told(error).body(), 500)

    @api.exception_handler(Exception)
    async def of_the_server(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(_told(error).body(), 500)

"""The HTTP endpoints; they use a ``Service`` and know nothing of Ray."""

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
from serve.head import Head
from serve.logs import log_place
from serve.negotiation import EVENTS, preferred_form
from serve.options import ServeOptions
from serve.schemas import (
    ELEVENLABS_FIELDS,
    ErrorResponse,
    GenerateRequest,
    GenerateResponse,
    Health,
    PolicyList,
    Sample,
    SoundGenerationRequest,
)
from serve.service import Generated, Service
from tangoflux.errors import TangoFluxError

logger = logging.getLogger(__name__)

DEFAULT_OUTPUT_FORMAT = "mp3_44100_128"
"""The default of ElevenLabs."""

EVENT_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

PAGE = Path(__file__).parent / "static" / "index.html"

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        400: "a value is not allowed",
        401: "the API key is missing or wrong",
        404: "there is no such policy",
        408: "the body did not arrive in time",
        413: "the body is too large",
        422: "a field is missing, unknown or of the wrong type",
        503: "the queue is full, or no policy is loaded yet; retry after Retry-After seconds",
    }.items()
}

AUDIO: dict[int | str, dict[str, Any]] = {
    200: {
        "model": GenerateResponse,
        "description": "the audio; as JSON with n above 1, or where Accept prefers JSON to audio",
        "content": {
            **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()},
            EVENTS: {"schema": {"type": "string"}},
        },
    }
}


def _service(request: Request) -> Service:
    return request.app.state.service()


ServiceDep = Annotated[Service, Depends(_service)]

router = APIRouter()


@router.post("/v1/audio/generate", responses={**AUDIO, **ERRORS}, response_class=Response, tags=["audio"])
async def generate(body: GenerateRequest, request: Request, service: ServiceDep) -> Response:
    """Audio from text."""
    request.state.field_names = {"input": "prompt"} if "prompt" in await request.json() else {}
    form = preferred_form(request.headers.getlist("accept"))
    if form == "events":
        events = await _after_first(_events(service, body))
        return StreamingResponse(events, headers=EVENT_HEADERS, media_type=EVENTS)
    as_json = body.n > 1 or form == "json"
    generated = await service.generate(body, ranked=as_json)
    if as_json:
        response = await asyncio.to_thread(_to_json, generated, body, service)
        return JSONResponse(response.model_dump(), headers=_headers(generated))
    waveform, rate = generated.samples[0].waveform, generated.sample_rate_hz
    audio = await asyncio.to_thread(encode, waveform, rate, body.response_format)
    return Response(audio, media_type=MEDIA_TYPES[body.response_format], headers=_headers(generated))


@router.post("/v1/sound-generation", responses={**AUDIO, **ERRORS}, response_class=Response, tags=["audio"])
async def sound_generation(
    body: SoundGenerationRequest,
    request: Request,
    service: ServiceDep,
    output_format: Annotated[str, Query(max_length=32)] = DEFAULT_OUTPUT_FORMAT,
) -> Response:
    """Audio from text, for clients of ElevenLabs' API."""
    request.state.field_names = ELEVENLABS_FIELDS
    wanted = OutputFormat.parse(output_format)
    generated = await service.generate(body.to_generate(), ranked=False)
    audio = await asyncio.to_thread(wanted.encode, generated.samples[0].waveform, generated.sample_rate_hz)
    return Response(audio, media_type=wanted.media_type, headers=_headers(generated))


@router.get("/v1/policies", responses={status: ERRORS[status] for status in (401, 503)}, tags=["policies"])
async def policies(service: ServiceDep) -> PolicyList:
    """The policy's versions and their held-out metrics."""
    return PolicyList.model_validate(await asyncio.to_thread(service.describe))


@router.get("/health", responses={503: {"model": Health, "description": "no policy is loaded yet"}}, tags=["policies"])
async def health(service: ServiceDep, response: Response) -> Health:
    """Whether requests are served; needs no key."""
    current = Health.model_validate(service.health())
    response.status_code = 200 if current.status == "ok" else 503
    return current


@router.get("/", include_in_schema=False)
async def page() -> HTMLResponse:
    """The web page."""
    return HTMLResponse(PAGE.read_text(encoding="utf-8"))


def build_api(service: Callable[[], Service], options: ServeOptions, key: str | None) -> FastAPI:
    """The ASGI application.

    Args:
        service: returns the replica's service.
        key: SHA-256 of the API key, or None.
    """
    api = FastAPIOffline(title="TangoFlux", version="1", description="Text to audio.", redoc_url=None)
    api.state.service = service
    api.include_router(router)
    _add_error_handlers(api)
    limits = options.limits
    api.add_middleware(Head)
    api.add_middleware(Guard, key_hash=key, max_body_bytes=limits.max_body_bytes, max_body_s=limits.max_body_s)
    # Outside the guard: a browser's preflight request has no key, and its page should be able to read a refusal.
    if options.cors_origins:
        origins = [origin.strip() for origin in options.cors_origins.split(",")]
        any_ = ["*"]
        api.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=any_, allow_headers=any_, expose_headers=any_
        )
    return api


async def _after_first(events: AsyncGenerator[str]) -> AsyncIterator[str]:
    """Waits for the first event, so that a request that is refused at once gets an HTTP status instead."""
    first = await anext(events)

    async def all_events() -> AsyncIterator[str]:
        async with aclosing(events):
            yield first
            async for event in events:
                yield event

    return all_events()


async def _events(service: Service, body: GenerateRequest) -> AsyncGenerator[str]:
    """Server-sent events: progress after each step, then the audio or the error.

    Raises:
        ApiError, TangoFluxError: before the first event.
    """
    loop = asyncio.get_running_loop()
    steps: asyncio.Queue[int | None] = asyncio.Queue()

    def on_step(step: int) -> None:
        loop.call_soon_threadsafe(steps.put_nowait, step)

    task = asyncio.create_task(service.generate(body, ranked=True, on_step=on_step))
    task.add_done_callback(lambda task: steps.put_nowait(None))
    started = False
    try:
        while (step := await steps.get()) is not None:
            started = True
            yield _event("progress", {"step": step, "steps": service.steps_of(body)})
        response = await asyncio.to_thread(_to_json, await task, body, service)
        yield _event("audio", response.model_dump())
    except Exception as error:
        if not started:
            raise
        yield _event("error", _to_api_error(error).body())
    finally:
        task.cancel()


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _to_json(generated: Generated, body: GenerateRequest, service: Service) -> GenerateResponse:
    samples = [
        Sample(
            audio=base64.b64encode(encode(sample.waveform, generated.sample_rate_hz, body.response_format)).decode(),
            seed=sample.seed,
            reward=None if sample.reward is None or math.isnan(sample.reward) else sample.reward,
        )
        for sample in generated.samples
    ]
    return GenerateResponse(
        model=generated.version,
        format=body.response_format,
        sample_rate=generated.sample_rate_hz,
        audio_length=generated.length_s,
        num_inference_steps=service.steps_of(body),
        reward_model=service.options.reward_model,
        data=samples,
        timing=generated.timing,
    )


def _headers(generated: Generated) -> dict[str, str]:
    timing = ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in generated.timing.items())
    return {
        "X-Policy-Version": generated.version,
        "X-Seed": ",".join(str(sample.seed) for sample in generated.samples),
        "Server-Timing": timing,
        "Cache-Control": "no-store",
    }


def _to_api_error(error: Exception) -> ApiError:
    """The error that the client sees; what is not the client's mistake is logged with its traceback."""
    if isinstance(error, ApiError):
        return error
    logger.error("a request failed", exc_info=error)
    if isinstance(error, TangoFluxError):
        return ApiError(500, "server_error", str(error), code="failed")
    return ApiError(500, "server_error", f"internal error ({type(error).__name__}); see {log_place()} of the server")


def _add_error_handlers(api: FastAPI) -> None:
    """Gives all error responses the same form."""

    @api.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> JSONResponse:
        # Only an endpoint that has read its fields raises an error that names one.
        named = error.renamed(request.state.field_names) if error.param else error
        return JSONResponse(named.body(), error.status, error.headers)

    @api.exception_handler(RequestValidationError)
    async def on_invalid_fields(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            message = f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][1]}"
            return JSONResponse(invalid(message, code="json_invalid").body(), 422)
        field = ".".join(str(part) for part in first["loc"][1:])
        message = f"{field or 'the body'}: {first['msg']}"
        if not field and "json" not in request.headers.get("content-type", ""):
            message = "the body must be a JSON object, sent with the header Content-Type: application/json"
        return JSONResponse(invalid(message, field or None, first["type"]).body(), 422)

    @api.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        body = ApiError(error.status_code, kind, str(error.detail), code="http").body()
        return JSONResponse(body, error.status_code, error.headers)

    @api.exception_handler(TangoFluxError)
    @api.exception_handler(Exception)
    async def on_failure(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(_to_api_error(error).body(), 500)

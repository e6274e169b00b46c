"""Middleware that checks the API key and the size of request bodies; plain ASGI, so that responses can stream."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import ApiError, invalid

OPEN_PATHS = ("/health",)


class Guard:
    """Refuses requests without the key, and stops reading bodies that are too large or too slow.

    Args:
        key_hash: SHA-256 of the key in hexadecimal; None if no key is needed.
    """

    def __init__(self, app: ASGIApp, key_hash: str | None, max_body_bytes: int, max_body_s: float) -> None:
        self._app, self._key_hash, self._max_bytes, self._max_s = app, key_hash, max_body_bytes, max_body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        if self._key_hash and scope["path"] not in OPEN_PATHS and not self._has_key(headers):
            return await _refuse(_unauthorized(), scope, receive, send)
        try:
            body = await asyncio.wait_for(self._body(headers, receive), self._max_s)
        except TimeoutError:
            return await _refuse(self._too_slow(), scope, receive, send)
        except ApiError as error:
            return await _refuse(error, scope, receive, send)
        await self._app(scope, _replayed(body, receive), send)

    def _has_key(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Compares hashes, in constant time."""
        keys = (_key_of(name, value) for name, value in headers)
        hashes = [hashlib.sha256(key).hexdigest() for key in keys if key is not None]
        return any(hmac.compare_digest(each, str(self._key_hash)) for each in hashes)

    async def _body(self, headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> bytes:
        stated = next((value for name, value in headers if name == b"content-length"), b"0")
        if stated.isdigit() and int(stated[:20]) > self._max_bytes:
            raise self._too_large()
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._max_bytes:
                raise self._too_large()
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                return body

    def _too_large(self) -> ApiError:
        return invalid(f"the body is larger than {self._max_bytes} bytes", code="body_too_large", status=413)

    def _too_slow(self) -> ApiError:
        return invalid(f"the body did not arrive within {self._max_s:g} s", code="body_too_slow", status=408)


def _key_of(name: bytes, value: bytes) -> bytes | None:
    if name == b"xi-api-key":
        return value.strip()
    if name != b"authorization":
        return None
    scheme, _, key = value.partition(b" ")
    if scheme.lower() == b"bearer":
        return key.strip()
    if scheme.lower() == b"basic":  # what browsers send after prompting the user; the user name is ignored
        try:
            return base64.b64decode(key, validate=True).partition(b":")[2]
        except binascii.Error:
            return None
    return None


def _unauthorized() -> ApiError:
    return ApiError(
        401,
        "authentication_error",
        "send the API key as Authorization: Bearer KEY or xi-api-key: KEY (in a browser: as the password)",
        code="invalid_api_key",
        headers={"WWW-Authenticate": 'Basic realm="tangoflux"'},
    )


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse(error.body(), error.status, error.headers)(scope, receive, send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Replays the body that was read, then passes on further messages, such as the client's disconnect."""
    read = False

    async def replay() -> Message:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay

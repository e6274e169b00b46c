"""JSON over HTTP with a server of rewards: retried where that helps, and bounded in time, size and number."""

from __future__ import annotations

import asyncio
import json
import os
import random
import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx

from tangoflux.errors import ConfigError, RewardError

KEY_VARIABLE = "TANGOFLUX_REWARD_API_KEY"
"""Environment variable with the key that servers of rewards ask for, sent as ``Authorization: Bearer``."""

SHOWN_CHARS = 100
"""How much of an answer an error shows."""


@dataclass(frozen=True)
class Limits:
    """What a client asks of a server, and bears.

    Attributes:
        concurrency: requests in flight.
        timeout_s: of an attempt, from connecting to the last byte of the answer.
        attempts: of a request whose connection fails, or that is answered with 429 or 5xx, or not in time.
        first_wait_s: before the second attempt; it doubles with every further one.
        max_wait_s: longest wait, also of those that a server asks for with Retry-After.
        max_reply_bytes: longest answer.
    """

    concurrency: int = 4
    timeout_s: float = 120.0
    attempts: int = 8
    first_wait_s: float = 0.5
    max_wait_s: float = 60.0
    max_reply_bytes: int = 2**20


PATIENT = Limits()
"""Within a run: a server that restarts within a minute costs no group."""


class JsonClient:
    """Sends requests of one reward; its methods may be called from any thread, also one with an event loop."""

    def __init__(self, limits: Limits = PATIENT) -> None:
        self._limits = limits
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(f"{KEY_VARIABLE} holds characters that a header cannot: put the server's key into it")
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    @cached_property
    def _certificates(self) -> ssl.SSLContext:
        """Read once, as it takes tens of milliseconds."""
        return httpx.create_ssl_context()

    def get(self, url: str) -> dict[str, Any]:
        """The answer to one GET request; see ``post``."""
        return self._run("GET", url, [None])[0]

    def post(self, url: str, bodies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The answers to POST requests, in order.

        Raises:
            RewardError: one of them failed after all attempts, or was answered by something other than a JSON object.
            ConfigError: the proxy of the environment cannot be used.
        """
        return self._run("POST", url, bodies)

    def _run(self, method: str, url: str, bodies: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(1) as thread:  # this one may have an event loop
            return thread.submit(asyncio.run, self._ask_all(method, url, bodies)).result()

    async def _ask_all(self, method: str, url: str, bodies: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
        free = asyncio.Semaphore(self._limits.concurrency)

        async def ask(body: Mapping[str, Any] | None) -> dict[str, Any]:
            async with free:
                return await self._ask(client, method, url, None if body is None else json.dumps(body).encode())

        async with self._client(url) as client:
            return await asyncio.gather(*map(ask, bodies))

    def _client(self, url: str) -> httpx.AsyncClient:
        """Uses a proxy of the environment for other machines only, as it could not reach this one."""
        host = urlsplit(url).hostname or ""
        is_here = host in ("localhost", "::1") or host.startswith("127.")
        try:
            # Without redirects, which could lead to another server than the one that is named in the rows.
            return httpx.AsyncClient(
                verify=self._certificates if url.startswith("https") or not is_here else False,
                headers=self._headers,
                timeout=None,
                trust_env=not is_here,
                follow_redirects=False,
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise ConfigError(f"the proxy of the environment cannot be used: {error}") from None

    async def _ask(self, client: httpx.AsyncClient, method: str, url: str, body: bytes | None) -> dict[str, Any]:
        problem = ""
        for attempt in range(self._limits.attempts):
            asked_to_wait = 0.0
            try:
                async with asyncio.timeout(self._limits.timeout_s):
                    response, content = await self._exchange(client, method, url, body)
                if response.status_code < 500 and response.status_code != 429:
                    return _parsed(url, response, content)
                problem = f"answers {response.status_code}: {shown(content)}"
                asked_to_wait = _retry_after_s(response)
            except TimeoutError:
                problem = f"does not answer within {self._limits.timeout_s:g} s"
            except httpx.TransportError as error:
                problem = f"cannot be reached: {shown(str(error)) or type(error).__name__}"
            if asked_to_wait > self._limits.max_wait_s:
                raise RewardError(f"{url} {problem}; it asks to wait {asked_to_wait:.0f} s")
            if attempt + 1 < self._limits.attempts:
                await asyncio.sleep(max(asked_to_wait, self._wait_s(attempt)))
        raise RewardError(f"{url} {problem} (after {self._limits.attempts} attempts)")

    def _wait_s(self, attempt: int) -> float:
        """Somewhat random, so that the workers do not all come back at once."""
        return random.uniform(0.5, 1.0) * min(self._limits.first_wait_s * 2**attempt, self._limits.max_wait_s)

    async def _exchange(
        self, client: httpx.AsyncClient, method: str, url: str, body: bytes | None
    ) -> tuple[httpx.Response, bytes]:
        content, most = bytearray(), self._limits.max_reply_bytes
        headers = {} if body is None else {"Content-Type": "application/json"}
        async with client.stream(method, url, content=body, headers=headers) as response:
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > most:
                    raise RewardError(f"{url} answers with more than {most:,} bytes")
        return response, bytes(content)


def _parsed(url: str, response: httpx.Response, content: bytes) -> dict[str, Any]:
    status = response.status_code
    if response.is_redirect:
        raise RewardError(f"{url} redirects elsewhere ({status}): name the address that answers itself")
    if not response.is_success:
        hint = f"; is {KEY_VARIABLE} right?" if status in (401, 403) else ""
        raise RewardError(f"{url} refuses the request ({status}): {shown(content)}{hint}")
    try:
        reply = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        kind = response.headers.get("content-type", "no type")
        raise RewardError(f"{url} answers with no JSON ({shown(kind)}): {shown(content)}") from None
    if not isinstance(reply, dict):
        raise RewardError(f"{url} answers with no JSON object: {shown(content)}")
    return reply


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _retry_after_s(response: httpx.Response) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 without one that can be read."""
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def shown(content: bytes | str) -> str:
    """The beginning of a text from elsewhere, in one line of printable characters."""
    text = content[: 4 * SHOWN_CHARS].decode("utf-8", "replace") if isinstance(content, bytes) else content
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= SHOWN_CHARS else f"{line[: SHOWN_CHARS - 3]}..."

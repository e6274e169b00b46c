"""A small real server of rewards on loopback, which fails in the ways that servers do, as a test asks for."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import soundfile

Answer = Callable[["Handler"], None]
"""Answers a request in place of the server."""

Body = Mapping[str, Any]


class RewardServer(ThreadingHTTPServer):
    """Scores by loudness, and answers questions of yes or no as an audio language model would.

    Attributes:
        faults: what happens to the next requests; None answers one.
        checkpoint: the weights that it says it has.
        says_yes: the probability of yes, by the question and the (samples, channels) audio.
        bodies: the requests, in the order of their arrival.
        most_at_once: most requests that were open at the same time.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.faults: deque[Answer | None] = deque()
        self.checkpoint, self.model, self.fingerprint = "w1", "ears", "f1"
        self.says_yes: Callable[[str, Any], float] = lambda question, audio: 0.5
        self.written = "1. Is there a dog?\n- Is it quiet otherwise?\nDone."
        self.bodies: list[Any] = []
        self.headers: list[Mapping[str, str]] = []
        self.most_at_once = self.open = 0
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what the tests are about."""

    def reply(self, path: str, body: Body) -> Body:
        """What a server that works answers."""
        if path == "/score":
            return {"scores": [float(np.abs(decoded(audio)).max()) for audio in body["audio"]]} | {
                "checkpoint": self.checkpoint
            }
        if path == "/v1/models":
            return {"data": [{"id": "other"}, {"id": self.model, "root": "org/ears-7b"}]}
        named = {"model": self.model, "system_fingerprint": self.fingerprint}
        content = body["messages"][-1]["content"]
        if isinstance(content, str):
            return named | {"choices": [{"message": {"content": self.written}}]}
        yes = self.says_yes(content[1]["text"], decoded(content[0]["input_audio"]["data"]))
        # As tokens come: several forms of a word, and others beside them.
        shares = {"Yes": 0.6 * yes, " yes": 0.2 * yes, "No": 0.5 * (1 - yes), "no.": 0.3 * (1 - yes), "Maybe": 0.2}
        likeliest = [{"token": token, "logprob": float(np.log(max(p, 1e-9)))} for token, p in shares.items()]
        return named | {"choices": [{"logprobs": {"content": [{"token": "Yes", "top_logprobs": likeliest}]}}]}


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server: RewardServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do(self) -> None:
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.body = json.loads(body) if body else {}
        with server.lock:
            server.open += 1
            server.most_at_once = max(server.most_at_once, server.open)
            server.bodies.append(self.body)
            server.headers.append(dict(self.headers))
            fault = server.faults.popleft() if server.faults else None
        try:
            if fault:
                fault(self)
            else:
                self.answer(200, json.dumps(server.reply(self.path.partition("?")[0], self.body)))
        finally:
            with server.lock:
                server.open -= 1

    do_GET = do_POST = do  # noqa: N815

    def answer(self, status: int, text: str | bytes, kind: str = "application/json", **headers: str) -> None:
        """A whole answer; names of headers have dashes for underscores."""
        content = text if isinstance(text, bytes) else text.encode()
        self.send_response_only(status)
        for name, value in {"Content_Type": kind, "Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def hang_up(self) -> None:
        """Ends the connection without an answer."""
        self.close_connection = True
        self.connection.close()


@contextmanager
def serving() -> Generator[RewardServer]:
    """A server until the block ends."""
    server = RewardServer()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def decoded(audio: str) -> Any:
    """The (samples, channels) audio of a file in base64."""
    return soundfile.read(io.BytesIO(base64.b64decode(audio)), dtype="float32", always_2d=True)[0]


def status(code: int, **headers: str) -> Answer:
    """A failure with its status."""
    return lambda handler: handler.answer(code, '{"error": "no\\nluck"}', **headers)


def saying(text: str | bytes, kind: str = "application/json", **headers: str) -> Answer:
    """An answer with status 200 that is not what was asked for."""
    return lambda handler: handler.answer(200, text, kind, **headers)


def reset(handler: Handler) -> None:
    """The connection ends before an answer."""
    handler.hang_up()


def half(handler: Handler) -> None:
    """The connection ends within the answer."""
    handler.send_response_only(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b'{"scores": [1.0')
    handler.hang_up()


def slow(handler: Handler) -> None:
    """Sends a byte now and then, so that no wait for the next one is long."""
    handler.send_response_only(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)

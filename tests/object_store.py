"""A real S3 server on loopback, and a proxy before it that spoils requests."""

from __future__ import annotations

import http.client
import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import boto3
from moto.server import ThreadedMotoServer

Fault = Literal["error", "slow", "cut", "answer lost"]
"""An answer of 500; one that comes too late; a connection that ends within the request; one that ends after it."""

BUCKET = "bucket"

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}

SLOW_S = 5.0

LENGTH = ("content-length", "transfer-encoding", "expect")


@contextmanager
def s3_server() -> Generator[str]:
    """Its URL; it has an empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client: Any = boto3.client(  # pyright: ignore[reportUnknownMemberType]
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    client.create_bucket(Bucket=BUCKET)
    try:
        yield url
    finally:
        server.stop()


class Proxy(ThreadingHTTPServer):
    """Passes requests on to ``upstream`` but for those that it was told to spoil, the next ones of a method first."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream.removeprefix("http://")
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.faults: deque[Fault | None] = deque()
        self.methods: tuple[str, ...] = ("PUT", "POST", "GET", "HEAD", "DELETE")
        self.spoilt = self.requests = 0

    def spoil(self, *faults: Fault | None, methods: tuple[str, ...] = ("PUT", "POST", "GET", "HEAD", "DELETE")) -> None:
        """The next requests of these methods meet these faults; None is passed on."""
        self.faults, self.methods, self.spoilt = deque(faults), methods, 0

    def fault_of(self, method: str) -> Fault | None:
        self.requests += 1
        if not self.faults or method not in self.methods:
            return None
        fault = self.faults.popleft()
        self.spoilt += fault is not None
        return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has hung up is what the tests are about."""


@contextmanager
def proxy_before(upstream: str) -> Generator[Proxy]:
    """A running proxy."""
    proxy = Proxy(upstream)
    threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy  # pyright: ignore[reportIncompatibleVariableOverride]

    def do(self) -> None:
        fault = self.server.fault_of(self.command)
        if fault == "cut":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            return self._hang_up()
        body = self._body()
        if fault == "error":
            return self._answer(500, {}, b"<Error><Code>InternalError</Code><Message>spoilt</Message></Error>")
        if fault == "slow":
            time.sleep(SLOW_S)
        connection = http.client.HTTPConnection(self.server.upstream, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in LENGTH}
        connection.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if fault == "answer lost":
            return self._hang_up()
        self._answer(answer.status, dict(answer.getheaders()), content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in (*LENGTH, "connection"):
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(content))) if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)

"""A real S3 server on loopback and a proxy that makes requests to it fail; a stand-in for Azure's."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl

import boto3
from moto.server import ThreadedMotoServer

Fault = Literal["error", "slow", "cut", "answer lost", "answer cut"]
"""Status 500; an answer after the timeout; a connection that breaks during the request, before or during the answer."""

Server = TypeVar("Server", bound=ThreadingHTTPServer)

BUCKET = "bucket"

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}

SLOW_S = 2.5

NOW = "Sat, 28 Nov 2026 12:00:00 GMT"

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
    """Forwards requests to ``upstream``, except those that are to fail."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream.removeprefix("http://")
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.faults: deque[Fault | None] = deque()
        self.methods: tuple[str, ...] = ("PUT", "POST", "GET", "HEAD", "DELETE")
        self.spoilt = self.requests = 0

    def spoil(self, *faults: Fault | None, methods: tuple[str, ...] = ("PUT", "POST", "GET", "HEAD", "DELETE")) -> None:
        """Makes the next requests with these methods fail in these ways; None forwards one."""
        self.faults, self.methods, self.spoilt = deque(faults), methods, 0

    def fault_of(self, method: str) -> Fault | None:
        self.requests += 1
        if not self.faults or method not in self.methods:
            return None
        fault = self.faults.popleft()
        self.spoilt += fault is not None
        return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what the tests are about."""


@contextmanager
def running(server: Server) -> Generator[Server]:
    """Serves until the block ends."""
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


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
        self._answer(answer.status, dict(answer.getheaders()), content, cut=fault == "answer cut")

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

    def _answer(self, status: int, headers: dict[str, str], content: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in (*LENGTH, "connection"):
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(content))) if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if cut:
            self.wfile.write(content[: len(content) // 2])
            return self._hang_up()
        self.wfile.write(content)


class BlobServer(ThreadingHTTPServer):
    """As much of Azure's blob service as a run uses, without a check of signatures."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _BlobHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.blobs: dict[str, bytes] = {}


class _BlobHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BlobServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do(self) -> None:
        blobs, (path, _, query) = self.server.blobs, self.path.partition("?")
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "comp=list" in query:
            return self._answer(200, self._listing(dict(parse_qsl(query))["prefix"]))
        if self.command == "PUT":
            if path in blobs and self.headers.get("If-None-Match") == "*":
                return self._answer(409, b"<Error><Code>BlobAlreadyExists</Code></Error>")
            blobs[path] = content
            return self._answer(201, b"")
        if "comp=batch" in query:
            return self._delete(re.findall(rb"DELETE (\S+) HTTP", content))
        if path not in blobs:
            return self._answer(404, b"<Error><Code>BlobNotFound</Code></Error>")
        self._answer(200, blobs[path])

    do_GET = do_PUT = do_HEAD = do_POST = do  # noqa: N815

    def _delete(self, paths: list[bytes]) -> None:
        part = "--b\r\nContent-Type: application/http\r\nContent-ID: {}\r\n\r\nHTTP/1.1 {}\r\n\r\n\r\n"
        found = [self.server.blobs.pop(path.decode(), None) is not None for path in paths]
        parts = [part.format(index, "202 Accepted" if one else "404 Not Found") for index, one in enumerate(found)]
        self._answer(202, f"{''.join(parts)}--b--".encode(), {"Content-Type": "multipart/mixed; boundary=b"})

    def _listing(self, prefix: str) -> bytes:
        names = {name.partition("/container/")[2]: content for name, content in self.server.blobs.items()}
        blob = "<Blob><Name>{}</Name><Properties><Last-Modified>{}</Last-Modified><Content-Length>{}</Content-Length>"
        blob += "<Content-Type>x</Content-Type><Etag>x</Etag></Properties></Blob>"
        found = [blob.format(name, NOW, len(content)) for name, content in names.items() if name.startswith(prefix)]
        return f"<EnumerationResults><Blobs>{''.join(found)}</Blobs></EnumerationResults>".encode()

    def _answer(self, status: int, content: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.send_response_only(status)
        always = {"Content-Length": str(len(content)), "Last-Modified": NOW, "ETag": '"x"'}
        for name, value in {**always, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

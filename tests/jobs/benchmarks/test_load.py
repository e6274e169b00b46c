from __future__ import annotations

import asyncio
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import pytest

from jobs.benchmarks.load import client_of
from tangoflux.errors import ConfigError


class Answer(BaseHTTPRequestHandler):
    """Answers every request, as a proxy too, with the address it was asked for."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a server that the environment names as its proxy."""
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    ("host", "is_proxied"), [("127.0.0.1", False), ("localhost", False), ("192.0.2.1", True), ("example.org", True)]
)
def test_a_proxy_is_used_for_other_machines_only(port: int, host: str, is_proxied: bool) -> None:
    url = f"http://{host}:{port}"

    async def ask() -> httpx.Response:
        async with client_of(url) as client:
            return await client.get("/health")

    assert asyncio.run(ask()).text == (f"{url}/health" if is_proxied else "/health")


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "ftp://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    for name in ("ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(ConfigError, match="the proxy of the environment cannot be used"):
        client_of("http://example.org")
    client_of("http://LOCALHOST:1")

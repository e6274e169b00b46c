from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from serve.options import options_of
from serve.ports import reserved_port
from serve.run import _start_proxy, main  # pyright: ignore[reportPrivateUsage]
from tangoflux.errors import ConfigError, ResourceError, TangoFluxError


def listener(host: str, port: int = 0) -> socket.socket:
    """Listens as Ray Serve does."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    for shared in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        made.setsockopt(socket.SOL_SOCKET, shared, 1)
    made.bind((host, port))
    made.listen()
    return made


@pytest.fixture(params=["127.0.0.1", "0.0.0.0", "::"])
def taken(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port of 127.0.0.1 on which another program listens."""
    try:
        other = listener(request.param)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with other:
        yield other.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_port_on_which_another_program_listens_is_refused(taken: int, host: str) -> None:
    with (
        pytest.raises(ResourceError, match=rf"^--port {taken} is in use on .*: stop that program or pass"),
        reserved_port(host, taken, "--port"),
    ):
        pass


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_a_busy_port_is_refused_before_ray_starts(taken: int, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ResourceError, match=f"^{option} {taken} is in use"):
        main([option, str(taken), "--policy", "/nowhere"])


def test_ray_may_listen_on_a_reserved_port_and_a_second_server_may_not() -> None:
    with listener("127.0.0.1") as free:
        port = free.getsockname()[1]
    with reserved_port("127.0.0.1", port, "--port"):
        with pytest.raises(ResourceError), reserved_port("0.0.0.0", port, "--port"):
            pass
        with listener("127.0.0.1", port) as server, socket.create_connection(("127.0.0.1", port)) as client:
            with pytest.raises(ResourceError), reserved_port("0.0.0.0", port, "--port"):
                pass
            accepted, _ = server.accept()
            accepted.close()
            assert client.recv(1) == b"", "the one that listens was connected"
    with reserved_port("127.0.0.1", port, "--port"):
        pass  # again at once, although a closed connection lingers


@pytest.mark.parametrize("host", ["192.0.2.77", "2001:db8::7", "nowhere.invalid", "256.1.1.1", "x" * 70 + ".org"])
def test_a_host_that_is_not_this_machines_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=f"^--host {host} is no address"), reserved_port(host, 8000, "--port"):
        pass


def test_a_port_for_administrators_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unprivileged(socket.socket):
        def bind(self, address: Any, /) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Unprivileged)
    with (
        pytest.raises(ResourceError, match="--port 80 is for administrators only: pass one from 1024 on"),
        reserved_port("127.0.0.1", 80, "--port"),
    ):
        pass


def test_port_and_metrics_port_differ() -> None:
    with pytest.raises(TangoFluxError, match="both 8123; pass another --metrics-port"):
        options_of({"port": "8123", "metrics_port": "8123"})


def test_a_port_that_is_busy_on_the_clusters_head_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**_: Any) -> None:
        raise RayTaskError("ready", "a traceback", RuntimeError("Failed to bind to address '127.0.0.1:8123'."))

    monkeypatch.setattr("ray.serve.start", start)
    with pytest.raises(ResourceError, match=r"^--port 8123 of --host 127.0.0.1: Failed to bind .*: pass another port$"):
        _start_proxy(options_of({"port": "8123"}))

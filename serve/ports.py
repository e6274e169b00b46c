"""Ports of this machine. Serve listens with SO_REUSEPORT: without a check, two endpoints would share one port."""

from __future__ import annotations

import errno
import socket
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from tangoflux.errors import ConfigError, ResourceError


@contextmanager
def reserved_port(host: str, port: int, option: str) -> Generator[None]:
    """Keeps a port from other programs of this machine, while Ray may listen on it.

    Args:
        option: of the port, for errors.

    Raises:
        ConfigError: the host is not an address of this machine.
        ResourceError: another program has the port, or only an administrator may have it.
    """
    with ExitStack() as stack:
        for family, address in _addresses(host, port):
            _bind(stack.enter_context(socket.socket(family)), address, f"{option} {port}", host)
        yield


def _addresses(host: str, port: int) -> set[tuple[socket.AddressFamily, tuple[str, int]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host {host} is no address ({error}); give one of this machine, such as 127.0.0.1"
        ) from None
    return {(family, (str(address[0]), port)) for family, _, _, _, address in found}


def _bind(holder: socket.socket, address: tuple[str, int], option: str, host: str) -> None:
    try:
        # With SO_REUSEADDR a closed connection of an earlier server is no obstacle, but every listener is.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ResourceError(f"{option} is in use on {address[0]}: stop that program or pass another port") from None
        if error.errno == errno.EACCES:
            raise ResourceError(f"{option} is for administrators only: pass one from 1024 on") from None
        raise ConfigError(f"--host {host} is no address of this machine ({error.strerror}): pass another") from None
    # From now on only sockets with SO_REUSEPORT may bind, such as Serve's; this one gets no connections.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

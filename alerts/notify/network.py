"""Connections to untrusted hosts: checked addresses, one deadline."""

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httpcore

from alerts.notify.egress import EgressAllowlist

Resolver = Callable[[str, int], list[str]]
"""`resolve(host, port)` returns addresses; raises OSError or UnicodeError if there are none."""


def resolve(host: str, port: int) -> list[str]:
    """Return the distinct addresses of a host, from the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def connect_first(addresses: Sequence[str], port: int, deadline: float) -> httpcore.NetworkStream:
    """Connect to the first address that answers; each gets an equal share of the time left."""
    last = len(addresses) - 1
    for n, address in enumerate(addresses):
        share = _seconds_left(deadline) / (last - n + 1)
        try:
            stream = httpcore.SyncBackend().connect_tcp(address, port, timeout=share)
        except (httpcore.ConnectError, httpcore.ConnectTimeout):
            if n == last:
                raise
        else:
            return _BoundedStream(stream, deadline)
    raise httpcore.ConnectError("no address to connect to")


class BoundedNetwork(httpcore.NetworkBackend):
    """Connect only to checked addresses, and end everything at one monotonic deadline."""

    def __init__(
        self, *, deadline: float, allowed: EgressAllowlist, resolve: Resolver = resolve
    ) -> None:
        self._deadline = deadline
        self._allowed = allowed
        self._resolve = resolve

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve once, check every address, connect to the first that answers."""
        try:
            addresses = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host}: {error}") from error
        self._allowed.check(host, addresses)
        return connect_first(addresses, port, self._deadline)


class _BoundedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _seconds_left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _seconds_left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, _seconds_left(self._deadline))
        return _BoundedStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _seconds_left(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise httpcore.ReadTimeout("the deadline has passed")
    return remaining

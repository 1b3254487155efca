"""The process that sends one message by apprise: an order comes on stdin, a report goes to stdout.

An audit hook looks at every address that is connected to, also behind a redirect or a name that
changes its mind; what is not allowed is refused and named in the report.
"""

import json
import logging
import re
import signal
import socket
import sys
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any
from urllib.parse import unquote

from alerts.addresses import AddressRefused, Allowed, parse_allowed
from alerts.network import resolve

_CONNECTS = {"socket.connect", "socket.sendto"}
_INTERNET = {socket.AF_INET, socket.AF_INET6}
_SHORTEST = 4


class Guard:
    """Refuse connections to what is not allowed; `refused` says why, once for each."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self.refused: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Look at an audit event (PEP 578); PermissionError ends the connection."""
        if event not in _CONNECTS:
            return
        one_socket, address = arguments
        try:
            if one_socket.family not in _INTERNET:
                raise AddressRefused("a socket of this machine is no receiver")
            self._allowed.check("", [str(address[0])])
        except (AddressRefused, ValueError) as error:
            self.refused.append(str(error))
            raise PermissionError(str(error)) from None


class Listener(logging.Handler):
    """Keep the warnings of the library."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.said.append(record.getMessage())


def main() -> None:
    """Do what the order says."""
    order = json.load(sys.stdin)
    signal.alarm(int(order["seconds"]) + 1)  # where nobody is left to kill this process
    named = parse_allowed(order["nets"] + order["hosts"], everything=order["everything"])
    guard = Guard(_with_their_addresses(named))
    sys.addaudithook(guard)
    sys.stdout.write(json.dumps(_send(order, guard)))


def _send(order: dict[str, Any], guard: Guard) -> dict[str, Any]:
    import apprise  # noqa: PLC0415  # after the guard

    listener = Listener()
    logging.basicConfig(handlers=[listener], level=logging.WARNING)
    memory = apprise.PersistentStoreMode.MEMORY
    asset = apprise.AppriseAsset(async_mode=False, secure_logging=True, storage_mode=memory)
    service = apprise.Apprise(asset=asset)
    known = service.add(order["url"])
    for each in service:
        each.overflow_mode = apprise.OverflowMode.SPLIT  # many services refuse a long text
    sent = known and bool(service.notify(title=order["title"], body=order["text"]))
    if guard.refused:
        hint = "if it is yours, name its net or host under `allow`"
        return {"sent": bool(sent), "reason": guard.refused[-1], "hint": hint}
    said = redacted(listener.said[-1], order["url"]) if listener.said else "the service did not"
    return {"sent": bool(sent), "reason": f"apprise: {said}", "hint": "compare the URL's parts"}


def redacted(said: str, url: str) -> str:
    """Blot out every part of the URL: any of them may be a token."""
    parts = re.split(r"[^\w.~%+-]+", url.partition("://")[2])
    words = {word for part in parts for word in (part, unquote(part)) if len(word) >= _SHORTEST}
    for word in sorted(words, key=len, reverse=True):
        said = said.replace(word, "***")
    return said


def _with_their_addresses(allowed: Allowed) -> Allowed:
    """Allow the addresses of the hosts that are allowed by name."""
    nets = [ip_network(address) for address in _addresses(allowed.hosts)]
    return replace(allowed, nets=(*allowed.nets, *nets))


def _addresses(hosts: Iterable[str]) -> Iterable[str]:
    for host in hosts:
        try:
            yield from resolve(host, 0)
        except OSError:
            continue


if __name__ == "__main__":
    main()

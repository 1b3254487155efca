"""Which log-ins a camera offers: a look of our own, without user and password.

Nothing of what it says is shown but the names that are known here.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from ingest.exchange import Exchange, left, requests_of, secured
from ingest.head import Challenge, Head
from ingest.place import Place, place_of, without_userinfo

SECONDS = 5.0
"""How long a look may take."""
_SCHEMES = ("basic", "bearer", "negotiate", "ntlm")
_ALGORITHMS = ("md5", "md5-sess", "sha-256", "sha-256-sess", "sha-512-256", "sha-512-256-sess")
DIGEST_MD5 = ("digest-md5", "digest-md5-sess")


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentication:
    """What a camera says to one who does not log in; times in seconds.

    `connected` is how long it took to connect, `answered` until the first answer after that; None
    where there was neither. `is_needed` is None where no answer says it. `offered` are `basic`,
    `digest-md5`, `digest-sha-256` and the like, in the camera's order.
    """

    connected: float | None = None
    answered: float | None = None
    is_needed: bool | None = None
    offered: tuple[str, ...] = ()
    is_encrypted: bool = False


def authentication_of(url: str, seconds: float = SECONDS) -> Authentication:
    """Ask a camera which log-ins it offers; what it does not say is None.

    `url` is one that `address_of` takes; its user and password are not sent.
    """
    place = place_of(without_userinfo(url))
    if place is None:
        return Authentication()
    look = _Look(place, time.monotonic() + seconds)
    with suppress(OSError, ValueError):  # UnicodeError is what a name that is none makes
        look.run()
    return look.found()


class _Look:
    """One connection, and what was learnt over it."""

    def __init__(self, place: Place, deadline: float) -> None:
        self._place = place
        self._deadline = deadline
        self._connected: float | None = None
        self._answered: float | None = None
        self._heads: list[Head] = []
        self._is_answered = False

    def run(self) -> None:
        """Ask all that there is to ask; raise OSError or ValueError where that is not possible."""
        began = time.monotonic()
        with self._connect() as connection:
            self._connected = time.monotonic() - began
            exchange = Exchange(connection, self._deadline)
            for request in requests_of(self._place):
                self._ask(exchange, request)
        self._is_answered = True

    def found(self) -> Authentication:
        """Return what was learnt."""
        codes = [head.code for head in self._heads]
        is_refused = not {401, 407}.isdisjoint(codes)
        is_open = self._is_answered and codes[-1] == 200
        return Authentication(
            connected=self._connected,
            answered=self._answered,
            is_needed=is_refused if is_refused or is_open else None,
            offered=tuple(dict.fromkeys(kind for head in self._heads for kind in kinds(head))),
            is_encrypted=self._place.is_encrypted,
        )

    def _connect(self) -> socket.socket:
        place = self._place
        plain = socket.create_connection((place.host, place.port), timeout=left(self._deadline))
        return secured(plain, place.host, left(self._deadline)) if place.is_encrypted else plain

    def _ask(self, exchange: Exchange, request: bytes) -> None:
        """Send a request and keep the head of its answer."""
        began = time.monotonic()
        head = exchange.ask(request)
        if head.text and self._answered is None:
            self._answered = time.monotonic() - began
        self._heads.append(head)


def kinds(head: Head) -> Iterator[str]:
    """Yield the log-ins that the head of an answer offers (RFC 9110, 11.6.1; RFC 7616, 3.3).

    What is not known here is passed over.
    """
    for challenges in head.challenges():
        yield from filter(None, map(_kind, challenges))


def _kind(challenge: Challenge) -> str:
    """Return what a log-in is called here; empty for one that is not known."""
    if challenge.scheme == "digest" and challenge.algorithm.lower() in _ALGORITHMS:
        return f"digest-{challenge.algorithm.lower()}"
    return challenge.scheme if challenge.scheme in _SCHEMES else ""

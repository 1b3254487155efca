"""A receiver that answers the worst there is, and what it took of what it was sent.

It knows nothing of the database: it remembers what it answered, and to what.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from kit.alerts.receiver_fuzz import WORST_RETRY_AFTERS, RawServer, run_raw_server

_ID = re.compile(rb"^webhook-id: (\S+)\r$", re.IGNORECASE | re.MULTILINE)
_ACCEPTED = b"HTTP/1.1 204 No Content\r\n\r\n"
_BUSY = b"HTTP/1.1 503 Busy\r\nRetry-After: %s\r\n\r\n"
_ANSWERS = (
    *[_ACCEPTED] * 5,
    *(_BUSY % value.encode() for value in WORST_RETRY_AFTERS),
    _BUSY % (b"9" * 5000),
    b"",
    b"HTTP/1.1 503 Bu",
    b"HTTP/1.1 999999 So\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\nContent-Length: x\r\n\r\n",
    b"\x16\x03\x01\x00\xff" * 50,
)


class HostileReceiver:
    """Takes half of what it is sent, until it is `kind`; then all of it."""

    def __init__(self, server: RawServer, rng: random.Random) -> None:
        self.url = server.url
        self.is_healthy = False
        self.accepted = list[str]()
        self.failed = Counter[str]()
        self.states = set[tuple[str, str]]()
        """Of all incidents in what it took: their ids and their states."""
        self._rng = rng

    def ids(self) -> set[str]:
        """Return the ids of all that it was sent."""
        return {*self.accepted, *self.failed}

    def answer(self, head: bytes, body: bytes) -> bytes:
        """Return the answer to a request."""
        answer = _ACCEPTED if self.is_healthy else self._rng.choice(_ANSWERS)
        found = _ID.search(head)
        if found is None or len(body) == 0:
            return answer  # cut by a kill: it was not all sent
        id = found[1].decode()
        if answer is not _ACCEPTED:
            self.failed[id] += 1
            return answer
        self.accepted.append(id)
        for incident in json.loads(body)["data"]["incidents"]:
            self.states.add((incident["id"], incident["state"]))
        return answer


@contextmanager
def run_hostile_receiver(rng: random.Random) -> Iterator[HostileReceiver]:
    with run_raw_server() as server:
        receiver = HostileReceiver(server, rng)
        server.responder = receiver.answer
        yield receiver

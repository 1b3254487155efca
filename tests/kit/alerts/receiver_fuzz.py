"""Hostile receivers: what one may answer, and deliveries that hold anything, as hypothesis draws.

`send` must raise nothing for any of it, without the guard of the courier; every outcome must be
such that a database takes it and that no receiver is left alone for longer than a day.
"""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn
from uuid import UUID

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from alerts.dispatch.messages import VERSION, parse_message
from alerts.notify.apprise import AppriseReceiver, outcome_from_process
from alerts.notify.http import EgressPolicy
from alerts.notify.outcomes import (
    MAX_REASON_CHARS,
    MAX_RETRY_AFTER,
    Delivered,
    DeliveryOutcome,
    Retry,
    outcome_from_status,
)
from alerts.notify.pagerduty import PagerDuty
from alerts.notify.receivers import Receiver
from kit.alerts.webhook_receiver import ALLOW_ALL, SECRET, a_webhook
from storage.records.records import IncidentState

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
BUSY = (429, 502, 503, 504)
WORST_RETRY_AFTERS = (
    "Mon, 01 Jan 2024 00:00:00 +9999999999999999999",
    "99999999999 Jan 01 1:2",
    "Fri, 31 Dec 9999 23:59:59 -1200",
)
"""What once ended all alerting."""
_ID = UUID(int=5)
_SENT = json.dumps(
    {
        "version": VERSION,
        "type": "incidents.firing",
        "timestamp": NOW.isoformat(),
        "data": {
            "incidents": [
                {"id": str(_ID), "camera": "dock", "rule": "bag", "severity": "high"}
                | {"state": IncidentState.OPEN}
            ]
        },
    }
).encode()
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class RawServer:
    """Answers every request on loopback with bytes, whatever they are, and hangs up.

    `answers` is given the head and the body; without it, it is always `answer`.
    """

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self.answer = b""
        self.responder: Callable[[bytes, bytes], bytes] | None = None
        self.url = f"http://127.0.0.1:{server.getsockname()[1]}/hook"

    def run(self) -> None:
        """Serve one after another, until the socket is shut."""
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                head, body = _read_request(connection)
                answer = self.responder(head, body) if self.responder else self.answer
                connection.sendall(answer)


@contextmanager
def run_raw_server() -> Iterator[RawServer]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = RawServer(listening)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _read_request(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return the head and the body; no body unless all of it came."""
    head, body, length = b"", b"", 0
    while not head or len(body) < length:
        piece = connection.recv(65536)
        if not piece:
            return head, b""
        body += piece
        if not head and b"\r\n\r\n" in body:
            head, _, body = body.partition(b"\r\n\r\n")
            found = _LENGTH.search(head)
            length = int(found[1]) if found else 0
    return head, body


@dataclass(frozen=True, slots=True)
class HeaderCase:
    """A status and the header that comes with it."""

    status: int
    retry_after: str

    def outcomes(self, _: RawServer) -> Iterator[DeliveryOutcome]:
        yield outcome_from_status(self.status, self.retry_after, NOW)


@dataclass(frozen=True, slots=True)
class BodyCase:
    """A stored delivery that may hold anything, to receivers whose names nobody resolves."""

    body: bytes

    def outcomes(self, _: RawServer) -> Iterator[DeliveryOutcome]:
        with suppress(ValueError):
            parse_message(self.body)
        nowhere = EgressPolicy(allowed=ALLOW_ALL.allowed, resolve=_fail_to_resolve)
        url = "http://soc.example/"
        yield a_webhook(url, egress_policy=nowhere).send(_ID, self.body, NOW)
        pagerduty = PagerDuty(name="oncall", routing_key=SECRET, url=url, egress=nowhere)
        yield pagerduty.send(_ID, self.body, NOW)
        nothing = AppriseReceiver(name="chat", url="json://127.0.0.1", command=("/nowhere/at/all",))
        yield nothing.send(_ID, self.body, NOW)


@dataclass(frozen=True, slots=True)
class ReportCase:
    """How the process of apprise ends, and what it leaves on stdout."""

    exit_code: int
    report: bytes

    def outcomes(self, _: RawServer) -> Iterator[DeliveryOutcome]:
        yield outcome_from_process(self.exit_code, self.report)


@dataclass(frozen=True, slots=True)
class WireCase:
    """Bytes that come back on the connection."""

    answer: bytes

    def outcomes(self, server: RawServer) -> Iterator[DeliveryOutcome]:
        server.answer = self.answer
        pagerduty = PagerDuty(name="oncall", routing_key=SECRET, url=server.url, egress=ALLOW_ALL)
        receivers: tuple[Receiver, ...] = (a_webhook(server.url), pagerduty)
        for receiver in receivers:
            yield receiver.send(_ID, _SENT, NOW)


ReceiverCase = HeaderCase | BodyCase | ReportCase | WireCase


def check(case: ReceiverCase, server: RawServer) -> None:
    """Raise AssertionError for an outcome that cannot be kept, and whatever `send` raises."""
    for outcome in case.outcomes(server):
        if isinstance(outcome, Delivered):
            continue
        assert timedelta() <= getattr(outcome, "after", timedelta()) <= MAX_RETRY_AFTER
        for text in (outcome.reason, outcome.hint):
            assert text.isprintable(), ascii(text)
            assert SECRET not in text
            assert len(text) <= MAX_REASON_CHARS
        assert not isinstance(outcome, Retry) or outcome.reason


def draw_settings(number: int) -> settings:
    """Return the settings that draw so often and do nothing else."""
    return settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def _fail_to_resolve(host: str, port: int) -> NoReturn:
    raise OSError(f"{host}:{port} is nowhere")


def _words(*known: str) -> st.SearchStrategy[str]:
    """Draw one that is right, or a number of any size, or anything."""
    number = st.integers(-(10**20), 10**20).map(str)
    return st.one_of(st.sampled_from(known), number, st.text(_LATIN, max_size=4))


_LATIN = st.characters(min_codepoint=1, max_codepoint=255)
_DATES = st.builds(
    lambda *parts: "".join(parts),
    _words("Mon, ", "Friday, ", "Thu ", "", "Mon,", ", "),
    _words("01 ", "31 ", "26-", "6 ", " 6 ", "00 ", "99999999999 "),
    _words("Jan ", "Dec ", "Nov-", "november ", "Foo ", "13 "),
    _words("2024 ", "9999 ", "0000 ", "26 ", "99999999999999999999 "),
    _words("00:00:00 ", "23:59:60 ", "1:2 ", "25:61:61 ", "1.2.3 ", "-1:-1:-1 "),
    _words("GMT", "-0000", "+0000", "-1200", "+9999999999999999999", "EST", "UTC", ""),
)
RETRY_AFTERS = st.one_of(
    _DATES,
    st.sampled_from(WORST_RETRY_AFTERS),
    st.integers(-(10**6), 10**30).map(str),
    st.text(_LATIN, max_size=60),
    st.sampled_from(["0" * 4000 + "7", "9" * 5000, "²", "1e9", "NaN", "120, 240", "\t5 "]),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
_STATES = st.sampled_from([*IncidentState, "gone"])
_INCIDENTS = st.fixed_dictionaries(
    {"id": _JSON, "camera": _JSON, "rule": _JSON, "severity": _JSON, "state": _STATES | _JSON},
    optional={"summary": _JSON, "opened_at": _JSON, "evidence": _JSON, "extra": _JSON},
)
_DATA = st.fixed_dictionaries(
    {},
    optional={
        "receiver": _JSON,
        "group": st.dictionaries(st.text(max_size=4), _JSON, max_size=2) | _JSON,
        "truncated": st.integers() | _JSON,
        "incidents": st.lists(_INCIDENTS, max_size=3) | _JSON,
    },
)
_TYPES = st.sampled_from(["incidents.firing", "incidents.resolved", "health", "heartbeat", "test"])
_MESSAGES = st.fixed_dictionaries(
    {
        "version": st.just(VERSION) | _JSON,
        "type": _TYPES | _JSON,
        "timestamp": _JSON,
        "data": _DATA | _JSON,
    }
)
_WRITTEN = (_MESSAGES | _JSON).map(lambda value: json.dumps(value).encode())
_DEEP = st.sampled_from([100, 200, 300, 400, 900, 2000, 100_000]).map(
    lambda depth: _SENT.replace(b'"dock"', b"[" * depth + b"]" * depth)
)
BODIES = st.one_of(
    _WRITTEN,
    _DEEP,
    st.binary(max_size=60),
    st.builds(lambda body, at: body[:at], _WRITTEN, st.integers(0, 200)),
    st.just(_SENT.replace(b'"data": {', b'"data": {"truncated": 1e999, ')),
)
_REPORTS = st.one_of(
    st.fixed_dictionaries({"sent": st.booleans() | _JSON, "reason": _JSON, "hint": _JSON}).map(
        lambda value: json.dumps(value).encode()
    ),
    st.text(max_size=400).map(
        lambda text: json.dumps({"sent": False, "reason": text, "hint": text}).encode()
    ),
    BODIES,
)
_BYTES = st.binary(max_size=40)
_PHRASES = st.sampled_from(
    [b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/2 ", b"HTTP/0.9 ", b"ICY ", b"\x16\x03\x01\x00"]
)
_NUMBERS = st.one_of(
    st.sampled_from([b"200", b"204", b"410", b"429", b"503", b"100", b"101", b"304", b"999"]),
    st.integers(-1, 10**6).map(lambda status: b"%d" % status),
    _BYTES,
)
_NAMES = st.sampled_from(
    [b"Retry-After", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Location", b"X"]
)
_VALUES = st.one_of(
    RETRY_AFTERS.map(lambda value: value.encode("latin-1")),
    st.sampled_from([b"0", b"-1", b"5, 6", b"99999999999999", b"chunked", b"gzip", b"close", b""]),
    _BYTES,
)
_HEADERS = st.lists(st.tuples(_NAMES | _BYTES, _VALUES), max_size=4)
_ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\n", b"\r", b""])
_PAYLOADS = st.one_of(
    _BYTES,
    st.sampled_from([b"0\r\n\r\n", b"ffffffffffffffff\r\nx", b"-1\r\n", b"5;x\r\nab", b"zz\r\n"]),
    st.just(b"a" * 120_000),
)


def _answer(
    phrase: bytes, number: bytes, headers: Sequence[tuple[bytes, bytes]], end: bytes, body: bytes
) -> bytes:
    lines = [phrase + number + b" So", *(name + b": " + value for name, value in headers)]
    return end.join([*lines, b"", body])


_ANSWERS = st.builds(_answer, _PHRASES, _NUMBERS, _HEADERS, _ENDS, _PAYLOADS)
ANSWERS = st.one_of(
    _ANSWERS,
    _ANSWERS,
    st.builds(lambda answer, at: answer[:at], _ANSWERS, st.integers(0, 80)),
    st.builds(lambda first, second: first + second, _ANSWERS, _ANSWERS),
    st.binary(max_size=200),
    st.just(b"HTTP/1.1 100 Continue\r\n\r\n" * 50),
)
STATUSES = st.sampled_from(BUSY) | st.integers(100, 999)
_HEADER = st.builds(HeaderCase, STATUSES, RETRY_AFTERS)
_REPORT = st.builds(ReportCase, st.just(0) | st.integers(-80, 255), _REPORTS)
_BODY = st.builds(BodyCase, BODIES)
_WIRE = st.builds(WireCase, ANSWERS)
_KINDS = (*[_HEADER] * 14, *[_REPORT] * 3, *[_BODY] * 2, _WIRE)
EACH = len(_KINDS)
CASES: st.SearchStrategy[tuple[ReceiverCase, ...]] = st.tuples(*_KINDS)
"""Many at once, for hypothesis takes longer between two draws than a draw takes."""

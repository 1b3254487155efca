"""Ask the running analyzer through the log, and wait for its reply."""

import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from deploy.config.problems import suggestion
from deploy.errors import BadSettings, CommandFailed
from storage.duration import format_duration, parse_duration
from storage.errors import Unreadable
from storage.log.log import Log, LogEntry
from storage.records.queries import QueryReply, QueryRequest
from storage.records.query_wire import decode_reply, encode_request
from storage.records.topics import REPLIES, REQUESTS

POLL_SECONDS = 0.1
"""Seconds between two reads of the replies."""
MIN_DURATION = timedelta(seconds=1)
MAX_WAIT, MAX_LOOK_BACK = timedelta(hours=1), timedelta(days=365)


def ask(
    log: Log,
    camera: str,
    question: str,
    *,
    look_back: timedelta | None,
    in_words: bool,
    wait: timedelta,
    zone: str | None = None,
) -> QueryReply:
    """Append a request and return its reply.

    Raises BadSettings for a question that cannot be asked, CommandFailed without a reply in time.
    """
    request = QueryRequest(
        id=uuid4(),
        camera=camera,
        ask=question,
        look_back=look_back,
        expires_at=datetime.now(UTC) + wait,
        in_words=in_words,
        zone=zone,
    )
    try:
        value = encode_request(request)
    except ValueError as error:
        raise BadSettings(f"this cannot be asked: {error}") from None
    partition = log.partition_for(REPLIES, camera)
    offset = log.end_offset(partition)
    log.append(REQUESTS, camera, value)
    return _wait_for_reply(log, request, partition, offset, wait)


def _wait_for_reply(
    log: Log, request: QueryRequest, partition: str, offset: int, wait: timedelta
) -> QueryReply:
    deadline, never_set = time.monotonic() + wait.total_seconds(), threading.Event()
    while True:
        is_last = time.monotonic() >= deadline
        for entry in log.read(partition, offset):
            offset = entry.offset + 1
            reply = _decode_reply(entry)
            if reply is not None and reply.request_id == request.id:
                return reply
        if is_last:
            message = f"no analyzer answered within {format_duration(wait)}"
            raise CommandFailed(f"{message}: is `longwatch run` running on this data directory?")
        never_set.wait(POLL_SECONDS)


def check_camera(camera: str, known: Iterable[str]) -> None:
    """Raise BadSettings for a camera that the settings do not name."""
    names = list(known)
    if camera not in names:
        hint = suggestion(camera, names) or f": choose one of {', '.join(names)}"
        raise BadSettings(f"no camera is called {camera!r}{hint}")


def check_zone(zone: str, camera: str, known: Iterable[str]) -> None:
    """Raise BadSettings for a zone that a camera does not have."""
    names = list(known)
    if not names:
        raise BadSettings(f"--zone: camera {camera!r} has no zones: draw {zone!r} under its zones")
    if zone not in names:
        message = f"--zone: camera {camera!r} has no zone {zone!r}"
        raise BadSettings(f"{message}: choose one of {', '.join(names)}")


def parse_duration_option(option: str, text: str, longest: timedelta) -> timedelta:
    """Parse the duration of an option; raise BadSettings."""
    try:
        found = parse_duration(text)
    except ValueError as error:
        raise BadSettings(f"{option}: {error}") from None
    if not MIN_DURATION <= found <= longest:
        bounds = f"{format_duration(MIN_DURATION)} to {format_duration(longest)}"
        raise BadSettings(f"{option}: choose {bounds}")
    return found


def _decode_reply(entry: LogEntry) -> QueryReply | None:
    """Return a reply; None if another version wrote it, to another request."""
    try:
        return decode_reply(entry.value)
    except Unreadable:
        return None

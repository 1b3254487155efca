"""Ask the running analyzer through the log, and wait for its reply."""

import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from uuid import uuid4

from deploy.errors import BadSettings, Failed
from storage.asks import decode_reply, encode_request
from storage.duration import format_duration, parse_duration
from storage.errors import Unreadable
from storage.log import REPLIES, REQUESTS, Entry, Log
from storage.records import Reply, Request

EVERY = 0.1
"""Seconds between looks at the replies."""
SHORTEST = timedelta(seconds=1)
LONGEST_WAIT, LONGEST_LOOK = timedelta(hours=1), timedelta(days=365)


def ask(
    log: Log,
    camera: str,
    question: str,
    *,
    look_back: timedelta | None,
    in_words: bool,
    wait: timedelta,
    zone: str | None = None,
) -> Reply:
    """Write a request and return the reply to it.

    Raises BadSettings where it cannot be written, and Failed when no reply comes in time.
    """
    request = Request(
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
    part = log.part_of(REPLIES, camera)
    position = log.next(part)
    log.append(REQUESTS, camera, value)
    return _reply_to(log, request, part, position, wait)


def _reply_to(log: Log, request: Request, part: str, position: int, wait: timedelta) -> Reply:
    deadline, pause = time.monotonic() + wait.total_seconds(), threading.Event()
    while True:
        is_last = time.monotonic() >= deadline
        for entry in log.read(part, position):
            position = entry.position + 1
            reply = _read(entry)
            if reply is not None and reply.request_id == request.id:
                return reply
        if is_last:
            told = f"no analyzer answered within {format_duration(wait)}"
            raise Failed(f"{told}: is `longwatch run` up on this data directory?")
        pause.wait(EVERY)


def check_camera(camera: str, known: Iterable[str]) -> None:
    """Raise BadSettings for a camera that the settings do not name."""
    names = list(known)
    if camera not in names:
        close = get_close_matches(camera, names, n=1)
        hint = f", did you mean {close[0]}?" if close else f": choose one of {', '.join(names)}"
        raise BadSettings(f"no camera is called {camera!r}{hint}")


def check_zone(zone: str, camera: str, known: Iterable[str]) -> None:
    """Raise BadSettings for a zone that a camera does not have."""
    names = list(known)
    if zone in names:
        return
    if not names:
        raise BadSettings(f"--zone: camera {camera!r} has no zones: draw {zone!r} under its zones")
    told = f"choose one of {', '.join(names)}"
    raise BadSettings(f"--zone: camera {camera!r} has no zone {zone!r}: {told}")


def duration(option: str, text: str, longest: timedelta) -> timedelta:
    """Read the duration of an option; raise BadSettings for a bad one."""
    try:
        found = parse_duration(text)
    except ValueError as error:
        raise BadSettings(f"{option}: {error}") from None
    if not SHORTEST <= found <= longest:
        bounds = f"{format_duration(SHORTEST)} to {format_duration(longest)}"
        raise BadSettings(f"{option}: choose {bounds}")
    return found


def _read(entry: Entry) -> Reply | None:
    """Return a reply, nothing where it was written by another version for somebody else."""
    try:
        return decode_reply(entry.value)
    except Unreadable:
        return None

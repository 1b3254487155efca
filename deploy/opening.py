"""Opening what may not answer yet."""

import sys
from collections.abc import Callable
from threading import Event
from typing import TypeVar

import structlog

from storage.errors import StorageBlocked
from storage.late_log import LateLog
from storage.log import Log
from storage.said_once import SaidOnce

Opened = TypeVar("Opened")
_PROMISE_SECONDS, _SECONDS = 60.0, 1.0

_say = structlog.get_logger("deploy.opening")


def when_it_answers(
    opening: Callable[[], Opened], stop: Event, promise: Callable[[float], None]
) -> Opened:
    """Open, as often as it takes; end the process with 0 once stopped.

    StorageUnfit is for the supervisor, which tries such a role more rarely.
    """
    said = SaidOnce(_say)
    while not stop.is_set():
        promise(_PROMISE_SECONDS)
        try:
            return opening()
        except StorageBlocked as error:
            said.say(error)
        stop.wait(_SECONDS)
    sys.exit(0)


def opened_or_later(opening: Callable[[], Log], promise: Callable[[float], None]) -> LateLog:
    """Return a log that is open if it answers, and else is opened when it does.

    StorageUnfit is for the supervisor, as above.
    """
    promise(_PROMISE_SECONDS)
    log = LateLog(opening)
    try:
        log.open()
    except StorageBlocked as error:
        _say.error(str(error))
    return log

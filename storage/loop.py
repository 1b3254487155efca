"""The loops of threads that work on a log or a database: they wait out blocked storage."""

import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar

from structlog.typing import FilteringBoundLogger

from storage.errors import StorageBlocked
from storage.once_logger import OnceLogger

Result = TypeVar("Result")
POLL_SECONDS = 1.0
"""How often to check for changes that no event announces, such as those of other processes."""
BLOCKED_SECONDS = 1.0
"""The pause after a step that found storage blocked."""
_STOP_SECONDS = 0.2
"""How late a thread that waits for an event may notice that it has to stop."""
_REST_SECONDS = 0.2
"""The longest rest after a step: as long as the step took, if that is less."""

WaitForWork = Callable[[Event, float], object]
"""`wait(stop, seconds)` returns when there may be work, `stop` is set or time is up."""


def wait_for(event: Event, stop: Event, seconds: float) -> None:
    """Return when `event` is set, `stop` is set or time is up; clear `event`."""
    until = time.monotonic() + seconds
    while (remaining := until - time.monotonic()) > 0 and not stop.is_set():
        if event.wait(min(remaining, _STOP_SECONDS)):
            break
    event.clear()


def repeat(
    step: Callable[[], object],
    stop: Event,
    logger: FilteringBoundLogger,
    *,
    seconds: float | None = None,
    wait: WaitForWork = Event.wait,
    eager: bool = False,
    blocked_seconds: float | None = None,
    blocked_event: str = "",
) -> None:
    """Take a step every few seconds until stopped; wait out blocked storage, logged once.

    `seconds` defaults to POLL_SECONDS; `blocked_event` is the log event, by default the error.
    `wait` may end the pause between two steps early, and may read the storage for it. With
    `eager`, the next step follows at once after one that did work (returned a true value). Any
    other error sets `stop` and is raised.
    """
    seconds = POLL_SECONDS if seconds is None else seconds
    once_logger = OnceLogger(logger, blocked_event)
    while not stop.is_set():
        started = time.monotonic()
        try:
            handled = step()
            if not (eager and handled):
                # If new work ends every wait, this rest leaves time for other threads.
                stop.wait(min(time.monotonic() - started, seconds, _REST_SECONDS))
                wait(stop, seconds)
            once_logger.reset()
        except StorageBlocked as error:
            once_logger.log_error(error)
            stop.wait(BLOCKED_SECONDS if blocked_seconds is None else blocked_seconds)
        except BaseException:
            stop.set()
            raise


def retry_until_done(
    attempt: Callable[[], Result | None],
    stop: Event,
    logger: FilteringBoundLogger,
    *,
    seconds: float,
    blocked_event: str = "",
) -> Result | None:
    """Return the first result that is not None, or None if stopped first.

    Waits some seconds after each attempt, and waits out blocked storage, logged once.
    """
    once_logger = OnceLogger(logger, blocked_event)
    while not stop.is_set():
        try:
            result = attempt()
            if result is not None:
                return result
            once_logger.reset()
        except StorageBlocked as error:
            once_logger.log_error(error)
        stop.wait(seconds)
    return None

"""The loop of a thread of alerts."""

import time
from collections.abc import Callable
from threading import Event

from structlog.typing import FilteringBoundLogger

from storage.errors import StorageBlocked
from storage.once_logger import OnceLogger

BLOCKED_SECONDS = 1.0
"""How long to wait before the next try of blocked storage."""
POLL_SECONDS = 1.0
"""How often to check for changes that no event announces, such as those of other processes."""
_STOP_SECONDS = 0.2
"""How often a thread that waits for an event checks `stop`."""
_REST_SECONDS = 0.2
"""The rest after a step lasts as long as the step, at most this long."""

WaitForWork = Callable[[Event, float], object]
"""`wait(stop, seconds)` returns when there may be work, `stop` is set, or time is up."""


def wait_for(event: Event, stop: Event, seconds: float) -> None:
    """Wait until an event or `stop` is set, or time is up; clear the event."""
    until = time.monotonic() + seconds
    while (remaining := until - time.monotonic()) > 0 and not stop.is_set():
        if event.wait(min(remaining, _STOP_SECONDS)):
            break
    event.clear()


def repeat(
    step: Callable[[], int],
    stop: Event,
    logger: FilteringBoundLogger,
    *,
    seconds: float | None = None,
    wait: WaitForWork = Event.wait,
    eager: bool = False,
) -> None:
    """Take a step every few seconds, POLL_SECONDS by default, until stopped.

    Blocked storage is logged once and waited out; any other error sets `stop` and is raised.
    `wait` may end the pause between two steps early, and may read storage. With `eager`, a step
    that handled any work is followed by the next at once.
    """
    seconds = POLL_SECONDS if seconds is None else seconds
    once_logger = OnceLogger(logger)
    while not stop.is_set():
        started = time.monotonic()
        try:
            handled = step()
            if not (eager and handled):
                # If new work ends every wait, this rest leaves time to other threads.
                stop.wait(min(time.monotonic() - started, seconds, _REST_SECONDS))
                wait(stop, seconds)
            once_logger.reset()
        except StorageBlocked as error:
            once_logger.log_error(error)
            stop.wait(BLOCKED_SECONDS)
        except BaseException:
            stop.set()
            raise

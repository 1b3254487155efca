"""The loop of a thread that works on what the database holds."""

import time
from collections.abc import Callable
from threading import Event

from structlog.typing import FilteringBoundLogger

from storage.errors import StorageBlocked
from storage.once_logger import OnceLogger

BLOCKED_SECONDS = 1.0
"""How long blocked storage is left alone before the next step."""
_STOP_SECONDS = 0.2
"""How late a thread may notice, while it waits for an event, that it is to stop."""
_REST_SECONDS = 0.2
"""The longest rest after a step: as long as the step took, where that is less."""

WaitForWork = Callable[[Event, float], object]
"""`wait(stop, seconds)` returns when there may be something to do, `stop` is set or time is up."""


def wait_for(event: Event, stop: Event, seconds: float) -> None:
    """Return when an event is set, which is cleared, `stop` is set or the time is over."""
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
    seconds: float,
    wait: WaitForWork = Event.wait,
    eager: bool = False,
) -> None:
    """Take a step every few seconds until stopped; wait out blocked storage, logged once.

    `wait` may end the pause between two steps early, and may look at the storage for it. With
    `eager`, a step that did something is followed by the next at once. Any other error sets
    `stop` and is raised.
    """
    once_logger = OnceLogger(logger)
    while not stop.is_set():
        started = time.monotonic()
        try:
            handled = step()
            if not (eager and handled):
                # Where something new ends every wait, time is left to the others all the same.
                stop.wait(min(time.monotonic() - started, seconds, _REST_SECONDS))
                wait(stop, seconds)
            once_logger.reset()
        except StorageBlocked as error:
            once_logger.log_error(error)
            stop.wait(BLOCKED_SECONDS)
        except BaseException:
            stop.set()
            raise

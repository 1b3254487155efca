"""The loop of a thread that works on what the database holds."""

from collections.abc import Callable
from threading import Event

from structlog.typing import FilteringBoundLogger

from storage.errors import StorageBlocked

BLOCKED_SECONDS = 1.0
"""How long blocked storage is left alone before the next step."""


def repeat(
    step: Callable[[], int],
    stop: Event,
    logger: FilteringBoundLogger,
    *,
    seconds: float,
    eager: bool = False,
) -> None:
    """Take a step every few seconds until stopped; wait out blocked storage, logged once.

    With `eager`, a step that did something is followed by the next at once. Any other error
    sets `stop` and is raised.
    """
    blocked = False
    while not stop.is_set():
        handled = 0
        try:
            handled = step()
            blocked = False
        except StorageBlocked as error:
            if not blocked:
                logger.error(str(error))
            blocked = True
        except BaseException:
            stop.set()
            raise
        if not (eager and handled):
            stop.wait(BLOCKED_SECONDS if blocked else seconds)

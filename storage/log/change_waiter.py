"""Waiting for new entries in a log."""

import threading
import time
from collections.abc import Callable
from threading import Event

POLL_SECONDS = 0.05
"""Seconds between two reads of the version."""


class ChangeWaiter:
    """Waits for the version of a log to change; any thread may use it.

    A wait compares with the version at the end of the thread's last wait, so an append during a
    read ends the next wait at once.
    """

    def __init__(self, get_version: Callable[[], int]) -> None:
        self._get_version = get_version
        self._known = threading.local()

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when the version has changed, `stop` is set or time is up."""
        deadline = time.monotonic() + seconds
        while not self._update():
            remaining = deadline - time.monotonic()
            if remaining <= 0 or stop.wait(min(remaining, POLL_SECONDS)):
                return

    def _update(self) -> bool:
        version = self._get_version()
        before = getattr(self._known, "version", None)
        self._known.version = version
        return version != before

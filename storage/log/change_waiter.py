"""Waiting until a log may hold more than it did."""

import threading
import time
from collections.abc import Callable
from threading import Event

POLL_SECONDS = 0.05
"""Seconds between two looks at a version."""


class ChangeWaiter:
    """Waits for the version of a log to change; may be used from any thread.

    Each thread is compared with the version that its last wait ended with, so that what was
    appended while it read, too late to be seen, ends its next wait at once.
    """

    def __init__(self, get_version: Callable[[], int]) -> None:
        self._get_version = get_version
        self._known = threading.local()

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when the version changed, `stop` is set, or the time is over."""
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

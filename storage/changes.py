"""Waiting until a log may hold more than it did."""

import threading
import time
from collections.abc import Callable
from threading import Event

LOOK = 0.05
"""Seconds between two looks at a version."""


class Changes:
    """Waits for the version of a log to change; may be used from any thread.

    Each thread is compared with the version that its last wait ended with, so that what was
    appended while it read, too late to be seen, ends its next wait at once.
    """

    def __init__(self, version: Callable[[], int]) -> None:
        self._version = version
        self._known = threading.local()

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when the version changed, `stop` is set, or the time is over."""
        until = time.monotonic() + seconds
        while not self._changed():
            left = until - time.monotonic()
            if left <= 0 or stop.wait(min(left, LOOK)):
                return

    def _changed(self) -> bool:
        version = self._version()
        before = getattr(self._known, "version", None)
        self._known.version = version
        return version != before

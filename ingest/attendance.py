"""When this process did not run: stopped, frozen, or on a machine that slept.

A thread ticks; a tick that comes late says for how long nothing ran here. Whoever reads a stream
cannot tell that from a camera that sent nothing.
"""

import threading
from collections.abc import Callable

from ingest.host_clock import steady_time

EVERY = 0.25
LEAST = 3.0
"""Seconds by which a tick is late where nothing ran: a busy machine makes it late by less."""


class Attendance:
    """Notice the spans, in steady seconds, in which nothing ran here."""

    def __init__(self, steady: Callable[[], float] = steady_time) -> None:
        self._steady = steady
        self._stop = threading.Event()
        self._missed: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._tick, name="attendance", daemon=True)

    def __enter__(self) -> "Attendance":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def missed(self) -> list[tuple[float, float]]:
        """Return, once each, the spans that were missed since the last call."""
        found, self._missed = self._missed, []
        return found

    def _tick(self) -> None:
        before = self._steady()
        while not self._stop.wait(EVERY):
            now = self._steady()
            if now - before > EVERY + LEAST:
                self._missed.append((before, now))
            before = now

"""Notice when this process did not run, and tick beside the reader of a stream.

Somebody looks every second. A look that comes late says for how long nothing ran here: the process
was stopped or frozen, or the machine slept. Whoever reads a stream cannot tell that from a camera
that sent nothing.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

EVERY = 1.0
LEAST = 3.0
"""Seconds by which a look is late where nothing ran: a busy machine makes it late by less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A span, in seconds of the steady clock, in which nothing ran here."""

    start: float
    end: float


class Attendance:
    """Notice pauses of this process; `look` from any thread, at least every second."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._lock = threading.Lock()
        self._looked = steady()

    def look(self) -> Pause | None:
        """Return the pause that ends now; each is returned once, to whoever looks first."""
        with self._lock:
            before, self._looked = self._looked, self._steady()
            if self._looked - before <= EVERY + LEAST:
                return None
            return Pause(start=before, end=self._looked)


class Ticker:
    """Call `tick` every second from a thread of its own, for as long as the block runs."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            self._tick()

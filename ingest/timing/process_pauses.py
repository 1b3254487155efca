"""Notice when this process did not run, and tick beside the reader of a stream.

Somebody looks every second. A look that comes late says for how long nothing ran here: the process
was stopped or frozen, or the machine slept. Whoever reads a stream cannot tell that from a camera
that sent nothing.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

TICK_SECONDS = 1.0
MIN_PAUSE = 3.0
"""Seconds by which a look is late where nothing ran: a busy machine makes it late by less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPause:
    """A span, in seconds of the steady clock, in which nothing ran here."""

    start: float
    end: float


class PauseDetector:
    """Notice pauses of this process; `look` from any thread, at least every second."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._lock = threading.Lock()
        self._checked_at = steady()

    def detect(self) -> ProcessPause | None:
        """Return the pause that ends now; each is returned once, to whoever looks first."""
        with self._lock:
            last_check, self._checked_at = self._checked_at, self._steady()
            if self._checked_at - last_check <= TICK_SECONDS + MIN_PAUSE:
                return None
            return ProcessPause(start=last_check, end=self._checked_at)


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
        while not self._stop.wait(TICK_SECONDS):
            self._tick()

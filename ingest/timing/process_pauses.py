"""Detect when this process did not run, by a thread that ticks every second.

A late tick shows for how long the process was stopped or frozen, or the machine slept. The reader
of a stream cannot distinguish that from a silent camera.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

TICK_SECONDS = 1.0
MIN_PAUSE = 3.0
"""Seconds by which a tick is late after a pause; a busy machine delays it by less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPause:
    """A span in which this process did not run, in seconds of the steady clock."""

    start: float
    end: float


class PauseDetector:
    """Detect pauses of this process; call `detect` from any thread, at least every second."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._lock = threading.Lock()
        self._checked_at = steady()

    def detect(self) -> ProcessPause | None:
        """Return the pause that ends now, None if there is none; each is returned once."""
        with self._lock:
            last_check, self._checked_at = self._checked_at, self._steady()
            if self._checked_at - last_check <= TICK_SECONDS + MIN_PAUSE:
                return None
            return ProcessPause(start=last_check, end=self._checked_at)


class Ticker:
    """Call `tick` every second on a thread while the `with` block runs."""

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

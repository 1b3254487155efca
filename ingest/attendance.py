"""Tick beside the reader of a stream, and notice when this process did not run.

A tick that comes late says for how long nothing ran here: the process was stopped or frozen, or the
machine slept. Whoever reads a stream cannot tell that from a camera that sent nothing.
"""

import threading
from collections.abc import Callable
from typing import Self

from ingest.host_clock import steady_time

EVERY = 1.0
LEAST = 3.0
"""Seconds by which a tick is late where nothing ran: a busy machine makes it late by less."""


class Attendance:
    """Call `tick` every second, and `missed(start, end)`, in steady seconds, after a pause."""

    def __init__(self, tick: Callable[[], None], missed: Callable[[float, float], None]) -> None:
        self._tick = tick
        self._missed = missed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="attendance", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        before = steady_time()
        while not self._stop.wait(EVERY):
            now = steady_time()
            if now - before > EVERY + LEAST:
                self._missed(before, now)
            self._tick()
            before = steady_time()

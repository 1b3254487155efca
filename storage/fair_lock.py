"""A lock that is given to whoever has waited longest.

A thread that takes Python's own lock again at once is ahead of all that wait for it.
"""

import threading
from collections import deque


class FairLock:
    """A lock for `with`; safe to use from any thread, and not to be taken twice by one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = deque[threading.Lock]()
        self._is_held = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._is_held:
                self._is_held = True
                return
            waiter = threading.Lock()
            waiter.acquire()
            self._waiting.append(waiter)
        waiter.acquire()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_held = False

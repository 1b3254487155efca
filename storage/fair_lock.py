"""A lock that threads acquire in the order in which they asked.

A thread that reacquires Python's own lock at once overtakes all waiting threads.
"""

import threading
from collections import deque


class FairLock:
    """A lock for `with`; not reentrant."""

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

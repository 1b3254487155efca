"""Read from a blocking iterator on a thread, with a timeout for each item.

FFmpeg blocks until data arrives or until the timeout that was set at open. If that timeout ends
within a stream, FFmpeg's parser restarts and a picture loses its timestamp. So FFmpeg's timeout is
long, and the caller of the reading thread sets its own, shorter ones.
"""

import os
import socket
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from ingest.rtsp.preflight import Peer

Item = TypeVar("Item")

_STOP_CHECK_SECONDS = 0.1
"""Seconds between two checks of `stop`."""
_JOIN_SECONDS = 0.3
"""Seconds to let a read in progress finish."""
_FORCED_JOIN_SECONDS = 2.0
_OPEN_FILES = Path("/dev/fd")


class StreamEnded(Exception):
    """The iterator has no more items."""


class ThreadedReader(Generic[Item]):
    """Run a generator on a thread, one item for each request.

    The thread closes the generator. `peers` are the addresses and ports that it is connected to:
    `close` breaks those connections if the thread does not end.
    """

    def __init__(self, items: Generator[Item], peers: set[Peer], stop: threading.Event) -> None:
        self._items = items
        self._peers = peers
        self._stop = stop
        self._requests: SimpleQueue[None] = SimpleQueue()
        self._results: SimpleQueue[Item | BaseException] = SimpleQueue()
        self._is_reading = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()

    def take(self, timeout: float) -> Item | None:
        """Return the next item; None after `timeout` seconds, or when `stop` is set.

        Raises what the generator raises, and StreamEnded at its end.
        """
        if not self._is_reading:
            self._is_reading = True
            self._requests.put(None)
        deadline = time.monotonic() + timeout
        while not self._stop.is_set():
            remaining = deadline - time.monotonic()
            with suppress(Empty):
                item = self._results.get(timeout=max(0.0, min(remaining, _STOP_CHECK_SECONDS)))
                self._is_reading = False
                if isinstance(item, BaseException):
                    raise item
                return item
            if remaining <= 0:
                break
        return None

    def close(self) -> None:
        """End the thread; if it waits for data, break the connection."""
        self._is_closed = True
        self._requests.put(None)
        self._thread.join(_JOIN_SECONDS)
        if self._thread.is_alive():
            _break_connections(self._peers)
            self._thread.join(_FORCED_JOIN_SECONDS)

    def _run(self) -> None:
        while True:
            self._requests.get()
            if self._is_closed:
                break
            try:
                item: Item | BaseException = next(self._items, StreamEnded())
            except Exception as error:  # noqa: BLE001 - `take` raises it
                item = error
            self._results.put(item)
            if isinstance(item, Exception):
                break
        self._items.close()


def _break_connections(peers: set[Peer]) -> None:
    """Shut down this process's connections to these peers: FFmpeg does not expose its sockets."""
    for file in list(_OPEN_FILES.iterdir()):
        with suppress(OSError):
            if file.is_socket():
                with socket.socket(fileno=os.dup(int(file.name))) as connection:
                    if connection.getpeername()[:2] in peers:
                        connection.shutdown(socket.SHUT_RDWR)

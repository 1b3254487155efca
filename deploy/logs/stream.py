"""The stream of log lines, which many processes share: each line stays in one piece."""

import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast


class LogStream:
    """Write each text in one piece to a file descriptor that threads and processes share.

    The kernel splits a write of more than PIPE_BUF (4096) bytes to a full pipe. So each write
    locks the descriptor; the kernel releases the lock if its holder dies.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._threads = threading.Lock()

    def write(self, text: str) -> int:
        """Write all of a text before any other; raise OSError."""
        left = memoryview(text.encode(errors="backslashreplace"))
        with self._threads, self._locked():
            while left:
                left = left[os.write(self._descriptor, left) :]
        return len(text)

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out, if the system can lock such a file."""
        with suppress(OSError):
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


def log_stream() -> TextIO:
    """Return the stream to stderr; stderr itself if it has no file descriptor."""
    try:
        return cast(TextIO, LogStream(sys.stderr.fileno()))
    except OSError:
        return sys.stderr

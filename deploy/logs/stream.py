"""The stream of log lines: each line in one piece, however many processes share it."""

import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast


class LogStream:
    """Write each text whole to a file descriptor that other threads and processes write to, too.

    The kernel writes up to PIPE_BUF (4096) bytes in one piece, and more only where a pipe has room
    for it. So a lock of this descriptor, which the kernel releases if its holder dies, is held
    meanwhile.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._threads = threading.Lock()

    def write(self, text: str) -> int:
        """Write all of a text before any other; raises OSError."""
        left = memoryview(text.encode(errors="backslashreplace"))
        with self._threads, self._locked():
            while left:
                left = left[os.write(self._descriptor, left) :]
        return len(text)

    def flush(self) -> None:
        """Do nothing: what was written is written."""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out, where the system can lock such a file."""
        with suppress(OSError):
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


def log_stream() -> TextIO:
    """Return the stream to stderr; stderr itself where it is no file of the system."""
    try:
        return cast(TextIO, LogStream(sys.stderr.fileno()))
    except OSError:
        return sys.stderr

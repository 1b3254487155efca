"""What the log and the database both ask of SQLite."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BUSY_SECONDS = 10.0
PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    # Zeroing what is deleted would write every window twice.
    "PRAGMA secure_delete=OFF",
    f"PRAGMA journal_size_limit={16 * 2**20}",
)
# A full disk shows as the second where the shared-memory file cannot grow.
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}


def is_full(error: BaseException | None) -> bool:
    """Tell whether SQLite failed because the disk is full."""
    return isinstance(error, sqlite3.Error) and error.sqlite_errorcode in _FULL


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Keep other processes from opening files of this folder meanwhile; make the file private.

    SQLite does not wait when two connections turn a new file to WAL at once. The lock is on
    the folder: closing a second handle of the file itself would drop SQLite's own locks.
    """
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        # SQLite gives its -wal and -shm the rights of the file itself, and says why it has none.
        with suppress(OSError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        yield
    finally:
        os.close(folder)

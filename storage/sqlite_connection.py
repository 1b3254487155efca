"""Open SQLite files, and translate the errors of SQLite."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from storage.errors import (
    StorageBlocked,
    StorageBusy,
    StorageError,
    StorageFailing,
    StorageFull,
    StorageUnfit,
)

BUSY_SECONDS = 10.0
"""How long a writer waits for the write lock."""
READ_BUSY_SECONDS = 2.0
"""How long a reader waits: only for a file that is not in WAL mode, or is in recovery."""
PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    # Zeroing deleted rows would write every window twice.
    "PRAGMA secure_delete=OFF",
    f"PRAGMA journal_size_limit={16 * 2**20}",
)
_MAKE_WRITABLE = (
    "this user must be able to write the file and its folder: run it as their owner, or make"
    " them writable"
)
_UNFIT_REASONS = {
    sqlite3.SQLITE_READONLY: f"it is read-only: {_MAKE_WRITABLE}",
    sqlite3.SQLITE_PERM: f"access is denied: {_MAKE_WRITABLE}",
    sqlite3.SQLITE_AUTH: f"access is denied: {_MAKE_WRITABLE}",
    sqlite3.SQLITE_CANTOPEN: f"it cannot be opened: {_MAKE_WRITABLE}",
    sqlite3.SQLITE_CORRUPT: "it is damaged: restore a backup, or move it away to start empty",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database: restore a backup, or name another folder",
}
_MOVED = "it was moved or deleted while it was open: start longwatch again"
_SCHEMA_DRIFT = "its tables are not those of its schema: restore a backup"
# The second: a full disk on which the shared-memory file cannot grow.
_FULL_CODES = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
_BUSY_CODES = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


def to_storage_error(error: BaseException | None, file: str) -> StorageError | None:
    """Return the storage error for an error of SQLite; None if it is a bug of ours."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    blocked = _blocked_error(code, error, file)
    if blocked is not None:
        return blocked
    reason = _MOVED if code == sqlite3.SQLITE_READONLY_DBMOVED else _UNFIT_REASONS.get(code & 0xFF)
    if reason is None and _is_schema_drift(code, error):
        reason = f"{error}: {_SCHEMA_DRIFT}"
    return None if reason is None else StorageUnfit(file, reason)


def _blocked_error(code: int, error: BaseException | None, file: str) -> StorageBlocked | None:
    if code in _FULL_CODES:
        return StorageFull(file)
    if code & 0xFF in _BUSY_CODES:
        return StorageBusy(file)
    if code & 0xFF == sqlite3.SQLITE_IOERR:
        return StorageFailing(file, f"{error}: check the disk and the file system")
    return None


def _is_schema_drift(code: int, error: BaseException | None) -> bool:
    drift = ("no such table", "no such column", "has no column named")
    return code == sqlite3.SQLITE_ERROR and any(words in str(error) for words in drift)


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Turn the errors of SQLite into errors of storage."""
    try:
        yield
    except sqlite3.Error as error:
        translated = to_storage_error(error, str(path))
        if translated is None:
            raise
        raise translated from error


def connect(path: Path, **options: Any) -> sqlite3.Connection:
    """Open a file for writing, in WAL mode; a new one is private. Raises sqlite3.Error."""
    if _identity(path) is None:
        with _lock_folder(path):
            _make_private(path)
    connection: sqlite3.Connection = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, **options
    )
    try:
        _configure(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection, path: Path) -> None:
    to_wal, *others = PRAGMAS
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        with _lock_folder(path):
            connection.execute(to_wal)
    for pragma in others:
        connection.execute(pragma)


class ReadOnlyConnection(sqlite3.Connection):
    """A connection that cannot write; `snapshot` identifies a file that no process has open."""

    path: Path
    snapshot: tuple[int, int, int] | None = None

    def reopen_if_opened(self) -> "ReadOnlyConnection":
        """Return this connection, or a new one if a process has opened the file since."""
        if self.snapshot is None:
            return self
        if self.snapshot == _identity(self.path) and not _is_open(self.path):
            return self
        self.close()
        return connect_read_only(self.path, check_same_thread=False)

    def check_unchanged(self) -> None:
        """Raise StorageBlocked if reads since the file was opened may be inconsistent.

        A writer that opened the file but has not checkpointed into it does no harm.
        """
        if self.snapshot is not None and _identity(self.path) != self.snapshot:
            raise StorageBlocked(f"{self.path} was changed while it was read: try again")


def connect_read_only(path: Path, **options: Any) -> ReadOnlyConnection:
    """Open a file for reading and write nothing, not even next to it. Raises sqlite3.Error.

    SQLite would create a missing -wal and -shm, which fails in a read-only folder, and else leaves
    the writer files of another user. They are missing while no process has the file open: then it
    is read as it is, without a lock.
    """
    snapshot = None if _is_open(path) else _identity(path)
    mode = "mode=ro" if snapshot is None else "mode=ro&immutable=1"
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{mode}",
        uri=True,
        timeout=READ_BUSY_SECONDS,
        isolation_level=None,
        factory=ReadOnlyConnection,
        **options,
    )
    connection.path, connection.snapshot = path, snapshot
    return connection


def _is_open(path: Path) -> bool:
    """Return whether a process has a file open, or died with it open."""
    return any(_identity(path.with_name(path.name + end)) for end in ("-wal", "-journal"))


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def _lock_folder(path: Path) -> Iterator[None]:
    """Lock out other processes that create files in this folder.

    SQLite does not wait if two connections switch a new file to WAL at once. The lock is on the
    folder: closing a second handle of the file itself would drop SQLite's own locks.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError:
        yield  # SQLite reports that it cannot open the file
        return
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _make_private(path: Path) -> None:
    # SQLite gives -wal and -shm the mode of the file, and reports if it cannot be created.
    with suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

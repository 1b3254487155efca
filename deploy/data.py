"""The data directory: what lies in it, and that one longwatch at a time runs on it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG_FILE, DATABASE_FILE, LOCK_FILE = "log.db", "longwatch.db", "run.lock"


class DataInUse(Exception):
    """Say that another longwatch runs on a data directory."""

    def __init__(self, data: Path, owner: str) -> None:
        super().__init__(
            f"{data} is in use by process {owner}: stop that, or name another data directory"
        )


def database_url(data: Path) -> str:
    """Return the url of the database in a data directory."""
    return f"sqlite:///{data / DATABASE_FILE}"


@contextmanager
def data_directory(path: Path) -> Iterator[Path]:
    """Make a data directory and hold it for this process alone; raises DataInUse."""
    path.mkdir(parents=True, exist_ok=True)
    handle = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataInUse(path, os.pread(handle, 20, 0).decode()) from None
        os.truncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield path
    finally:
        os.close(handle)

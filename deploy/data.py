"""The data directory: what lies in it, and that one longwatch at a time runs on it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.errors import DataInUse, Failed

LOG_FILE, DATABASE_FILE, LOCK_FILE = "log.db", "longwatch.db", "run.lock"


def database_url(data: Path) -> str:
    """Return the url of the database in a data directory."""
    return f"sqlite:///{data / DATABASE_FILE}"


@contextmanager
def data_directory(path: Path) -> Iterator[Path]:
    """Make a data directory and hold it for this process alone; raises DataInUse and Failed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        told = f"{path}: {error.strerror}: name a data directory that can be written"
        raise Failed(told) from None
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

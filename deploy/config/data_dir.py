"""The data directory: its files, their permissions, and the locks of processes on it."""

import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from deploy.errors import CommandFailed, DataInUse
from storage import role_problems

if TYPE_CHECKING:
    from storage.log.kafka.client.config import KafkaConfig

LOG_FILE, DATABASE_FILE, LOCK_FILE = "log.db", "longwatch.db", "run.lock"
EVIDENCE_FOLDER = "evidence"
PRIVATE_UMASK = 0o077
"""The umask of every process: only the owner reads stills, findings, messages and settings."""
_OWNER_MODE = 0o7700
_OWN_PATTERNS = (
    f"{LOG_FILE}*",
    f"{DATABASE_FILE}*",
    "*.lock",
    EVIDENCE_FOLDER,
    role_problems.FOLDER,
)
"""The files of longwatch in a data directory; users may keep others beside them."""

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageLocations:
    """Where log and database are: files in `data`, unless the settings name servers."""

    data: Path
    log: "Path | KafkaConfig"
    database: str = field(repr=False)


def database_url(data: Path) -> str:
    """Return the url of the database in a data directory."""
    return f"sqlite:///{data / DATABASE_FILE}"


@contextmanager
def lock_data_dir(path: Path, services: Sequence[str] | None = None) -> Iterator[Path]:
    """Make a data directory, private to its owner, and lock it; raise DataInUse, CommandFailed.

    Without services lock all of it; else lock each of them, and let other services run beside.
    """
    with ExitStack() as held:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_private(path)
            kind = fcntl.LOCK_EX if services is None else fcntl.LOCK_SH
            held.enter_context(_lock(path, LOCK_FILE, kind))
            for service in services or ():
                held.enter_context(_lock(path, f"{service}.lock", fcntl.LOCK_EX))
        except OSError as error:
            message = f"{path}: {error.strerror}: name a data directory that can be written"
            raise CommandFailed(message) from None
        yield path


def make_private(folder: Path) -> None:
    """Close a data directory and the files of longwatch in it to other users; log what was open.

    Links stay as they are, and so do the files in a folder that only its owner can enter.
    """
    closed, failed = 0, 0
    for path in _open_to_others(folder):
        try:
            path.chmod(path.stat().st_mode & _OWNER_MODE)
            closed += 1
        except FileNotFoundError:
            continue  # another service of this machine has just removed it
        except OSError:
            failed += 1
    if closed:
        logger.warning("data were open to other users, closed now", data=str(folder), paths=closed)
    if failed:
        logger.warning("data stay open to other users: not ours", data=str(folder), paths=failed)


def _open_to_others(folder: Path) -> Iterator[Path]:
    """Yield the folder and the files of longwatch in it that are open to other users.

    The folder comes first: once it is closed nobody can replace a file by a link.
    """
    if folder.stat().st_mode & PRIVATE_UMASK:
        yield folder
    for pattern in _OWN_PATTERNS:
        for path in folder.glob(pattern):
            yield from _open_below(path)


def _open_below(path: Path) -> Iterator[Path]:
    try:
        mode = path.lstat().st_mode
        is_open = bool(mode & PRIVATE_UMASK) and not stat.S_ISLNK(mode)
        inner = list(path.iterdir()) if is_open and stat.S_ISDIR(mode) else []
    except FileNotFoundError:
        return
    if is_open:
        yield path
    for each in inner:
        yield from _open_below(each)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, under any umask."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w") as file:
        os.fchmod(handle, 0o600)
        file.write(text)


@contextmanager
def _lock(path: Path, name: str, kind: int) -> Iterator[None]:
    handle = os.open(path / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataInUse(path, os.pread(handle, 20, 0).decode()) from None
        os.truncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)

"""The data directory: what lies in it, and that one longwatch at a time runs on it."""

import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from deploy.errors import BadSettings, CommandFailed, DataInUse
from storage import role_problems

if TYPE_CHECKING:
    from deploy.config.partial_settings import DatabaseSubset, LogSubset
    from deploy.config.settings import LongwatchSettings
    from storage.log.kafka.client.config import KafkaConfig

LOG_FILE, DATABASE_FILE, LOCK_FILE = "log.db", "longwatch.db", "run.lock"
EVIDENCE_FOLDER = "evidence"
PRIVATE_UMASK = 0o077
"""The umask of all that writes: nobody else reads stills, findings, messages or settings."""
_OWNER_MODE = 0o7700
_OWN_PATTERNS = (
    f"{LOG_FILE}*",
    f"{DATABASE_FILE}*",
    "*.lock",
    EVIDENCE_FOLDER,
    role_problems.FOLDER,
)
"""What longwatch makes in a data directory; a user may keep other files beside it."""

logger = structlog.get_logger()
CONFIG_FILES = (Path("longwatch.yaml"), Path("/etc/longwatch/longwatch.yaml"))
"""Where the settings are looked for when nobody names a file, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageLocations:
    """Where what outlives a process is: files in `data`, unless the settings name servers."""

    data: Path
    log: "Path | KafkaConfig"
    database: str = field(repr=False)


def storage_locations(settings: "LongwatchSettings") -> StorageLocations:
    """Return the places that settings name."""
    return StorageLocations(
        data=settings.data, log=log_location(settings), database=database_location(settings)
    )


def log_location(settings: "LongwatchSettings | LogSubset") -> "Path | KafkaConfig":
    """Return where the log is that settings name."""
    from deploy.config.assemble import build_kafka_config
    from deploy.config.log_space import log_retention

    kafka = settings.log.kafka
    if kafka is None:
        return settings.data / LOG_FILE
    return build_kafka_config(kafka, settings.site, log_retention(settings.log, settings.data))


def database_location(settings: "LongwatchSettings | DatabaseSubset") -> str:
    """Return the url of the database that settings name."""
    url = settings.database
    return url.get_secret_value() if url else database_url(settings.data)


def choose_config(config: Path | None, data: Path | None) -> Path | None:
    """Return the settings file that is meant; None where a data directory is named instead."""
    if config is not None and data is not None:
        raise BadSettings("say where to look: either --config FILE or --data DIR")
    if data is not None:
        return None
    return config or default_config("--config FILE or --data DIR")


def default_config(option: str = "--config FILE") -> Path:
    """Return the settings file where no option names one; raise BadSettings where there is none."""
    from deploy.config.settings_file import CONFIG_VARIABLE

    found = find_config()
    if found is None:
        looked = " nor ".join(f"{file.parent}/{file.name}" for file in CONFIG_FILES)
        message = f"{CONFIG_VARIABLE} is not set, and there is neither {looked}"
        raise BadSettings(f"{message}: say where to look: {option}")
    return found


def find_config() -> Path | None:
    """Return the settings file that the environment names, or that is where it usually is."""
    from deploy.config.settings_file import CONFIG_VARIABLE

    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else next((file for file in CONFIG_FILES if file.is_file()), None)


def require_data_dir(data: Path | None) -> Path:
    """Return the data directory that an option names; raise BadSettings where none does."""
    if data is None:
        raise BadSettings("say where to look: either --config FILE or --data DIR")
    return data


def database_url(data: Path) -> str:
    """Return the url of the database in a data directory."""
    return f"sqlite:///{data / DATABASE_FILE}"


@contextmanager
def lock_data_dir(path: Path, services: Sequence[str] | None = None) -> Iterator[Path]:
    """Make a data directory, private to its owner, and hold it; raises DataInUse and Failed.

    Without services it is held whole, for this process alone; else each of them is, none twice,
    and others may run beside them.
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
    """Close a data directory, and what longwatch keeps in it, to other users; log what was open.

    Links are left alone, and so is what is in a folder that only its owner can enter.
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
    """Yield the folder and what longwatch keeps in it, as far as others have any right on them.

    The folder comes first: once it is closed nobody can put a link in the place of a file.
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
    """Write a file that nobody else can read, under any umask."""
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

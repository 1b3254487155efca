"""The data directory: what lies in it, and that one longwatch at a time runs on it."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.errors import BadSettings, DataInUse, Failed

if TYPE_CHECKING:
    from deploy.settings import Settings
    from storage.kafka_place import KafkaPlace

LOG_FILE, DATABASE_FILE, LOCK_FILE = "log.db", "longwatch.db", "run.lock"
EVIDENCE_FOLDER = "evidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where what outlives a process is: files in `data`, unless the settings name servers."""

    data: Path
    log: "Path | KafkaPlace"
    database: str = field(repr=False)


def places_of(settings: "Settings") -> Places:
    """Return the places that settings name."""
    from deploy.assemble import kafka_place_of

    kafka, url = settings.log.kafka, settings.database
    return Places(
        data=settings.data,
        log=kafka_place_of(kafka, settings.site) if kafka else settings.data / LOG_FILE,
        database=url.get_secret_value() if url else database_url(settings.data),
    )


def find_places(config: Path | None, data: Path | None, *files: str) -> Places:
    """Return the places that are meant; raise Failed where one of these is a file not there."""
    from deploy.config_file import read_settings

    if config is None or data is not None:
        folder = find_data(config, data, *files)
        return Places(data=folder, log=folder / LOG_FILE, database=database_url(folder))
    places = places_of(read_settings(config))
    in_files = {
        LOG_FILE: isinstance(places.log, Path),
        DATABASE_FILE: places.database == database_url(places.data),
    }
    find_data(None, places.data, *(file for file in files if in_files[file]))
    return places


def database_url(data: Path) -> str:
    """Return the url of the database in a data directory."""
    return f"sqlite:///{data / DATABASE_FILE}"


@contextmanager
def data_directory(path: Path, services: Sequence[str] | None = None) -> Iterator[Path]:
    """Make a data directory and hold it; raises DataInUse and Failed.

    Without services it is held whole, for this process alone; else each of them is, none twice,
    and others may run beside them.
    """
    with ExitStack() as held:
        try:
            path.mkdir(parents=True, exist_ok=True)
            kind = fcntl.LOCK_EX if services is None else fcntl.LOCK_SH
            held.enter_context(_lock(path, LOCK_FILE, kind))
            for service in services or ():
                held.enter_context(_lock(path, f"{service}.lock", fcntl.LOCK_EX))
        except OSError as error:
            told = f"{path}: {error.strerror}: name a data directory that can be written"
            raise Failed(told) from None
        yield path


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


def find_data(config: Path | None, data: Path | None, *files: str) -> Path:
    """Return the data directory that is meant; raise Failed where one of the files is missing."""
    from deploy.config_file import read_settings

    if config is not None and data is None:
        data = read_settings(config).data
    elif config is not None or data is None:
        raise BadSettings("say where to look: either --config FILE or --data DIR")
    for file in files:
        if not (data / file).is_file():
            raise Failed(f"{data} holds no {file}: name the data of a longwatch that ran")
    return data

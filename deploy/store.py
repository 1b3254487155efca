"""The one door by which every command comes to the data of a longwatch.

What only looks opens it for reading: nothing is made, migrated, locked or written.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.data import (
    EVIDENCE_FOLDER,
    LOG_FILE,
    chosen_config,
    database_of,
    database_url,
    log_of,
    named_data,
)
from deploy.errors import Failed

if TYPE_CHECKING:
    from storage.coverage import CoverageStore
    from storage.findings import FindingStore
    from storage.incidents import IncidentStore
    from storage.kafka_place import KafkaPlace
    from storage.log import Log
    from storage.outbox import Outbox
    from storage.silences import SilenceStore


@contextmanager
def open_store(
    config: Path | None, data: Path | None, *, writing: bool = False
) -> "Iterator[Store]":
    """Open the data that a settings file names, or a data directory; raise BadSettings.

    Each part is opened when it is first asked for, and closed with the block.
    """
    with ExitStack() as opened:
        yield Store(chosen_config(config, data), data, opened, writing=writing)


class Store:
    """The database, the log and the evidence of a longwatch, wherever the settings have them.

    Each property raises Failed where the file is not there, StorageBlocked and StorageUnfit.
    """

    def __init__(
        self, file: Path | None, data: Path | None, opened: ExitStack, *, writing: bool
    ) -> None:
        self._file = file
        self._named = data
        self._opened = opened
        self._writing = writing

    @cached_property
    def data(self) -> Path:
        """Return the data directory."""
        from deploy.config_file import read_part
        from deploy.settings import DataSettings

        if self._file is None:
            return named_data(self._named)
        return read_part(self._file, DataSettings).data

    @property
    def evidence(self) -> Path:
        """Return the folder of stills."""
        return self.data / EVIDENCE_FOLDER

    @cached_property
    def url(self) -> str:
        """Return the url of the database, whether it is there or not."""
        from deploy.config_file import read_part
        from deploy.parts import DatabasePart

        if self._file is None:
            return database_url(named_data(self._named))
        return database_of(read_part(self._file, DatabasePart))

    @property
    def has_database(self) -> bool:
        """Return whether there is a database: a file that is not there was not written yet."""
        from storage.database import path_of

        path = path_of(self.url)
        return path is None or path.exists()

    @cached_property
    def incidents(self) -> "IncidentStore":
        """Return incidents, and all that the database keeps of them."""
        from storage.database import open_database, path_of
        from storage.incidents import IncidentStore

        path = path_of(self.url)
        if path is not None:
            check_file(path)
        engine = open_database(self.url, reading=not self._writing)
        self._opened.callback(engine.dispose)
        return IncidentStore(engine)

    @cached_property
    def coverage(self) -> "CoverageStore":
        """Return the coverage of cameras."""
        from storage.coverage import CoverageStore

        return CoverageStore(self.incidents.engine)

    @cached_property
    def findings(self) -> "FindingStore":
        """Return the findings."""
        from storage.findings import FindingStore

        return FindingStore(self.incidents.engine)

    @cached_property
    def outbox(self) -> "Outbox":
        """Return the deliveries and the receivers."""
        from storage.outbox import Outbox

        return Outbox(self.incidents)

    @cached_property
    def silences(self) -> "SilenceStore":
        """Return the silences."""
        from storage.silences import SilenceStore

        return SilenceStore(self.incidents)

    @cached_property
    def log(self) -> "Log":
        """Return the log, which has to be there."""
        place = self._log_place
        if isinstance(place, Path):
            check_file(place)
        return self._open_log(place)

    @cached_property
    def made_log(self) -> "Log":
        """Return the log of those who write; its file is made where it is not there."""
        return self._open_log(self._log_place)

    @cached_property
    def _log_place(self) -> "Path | KafkaPlace":
        from deploy.config_file import read_part
        from deploy.parts import LogPart

        if self._file is None:
            return named_data(self._named) / LOG_FILE
        return log_of(read_part(self._file, LogPart))

    def _open_log(self, place: "Path | KafkaPlace") -> "Log":
        from storage.opening import open_log

        log = open_log(place, reading=not self._writing)
        self._opened.callback(log.close)
        return log


def check_file(file: Path) -> None:
    """Raise Failed where a file is not there, or nobody lets us look."""
    try:
        if file.is_file():
            return
    except PermissionError:
        raise Failed(f"{file} cannot be read: run this as the user of longwatch") from None
    raise Failed(f"{file.parent} holds no {file.name}: name the data of a longwatch that ran")

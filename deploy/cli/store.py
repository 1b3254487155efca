"""The one door by which every command comes to the data of a longwatch.

What only looks opens it for reading: nothing is made, migrated, locked or written.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.config.data_dir import (
    EVIDENCE_FOLDER,
    LOG_FILE,
    choose_config,
    database_location,
    database_url,
    log_location,
    require_data_dir,
)
from deploy.errors import CommandFailed

if TYPE_CHECKING:
    from storage.db.alert_store import AlertStore
    from storage.db.outbox import Outbox
    from storage.db.rows.coverage import CoverageStore
    from storage.db.rows.findings import FindingStore
    from storage.db.silences import SilenceStore
    from storage.log.kafka.client.config import KafkaConfig
    from storage.log.log import Log


@contextmanager
def open_store(
    config: Path | None, data: Path | None, *, is_writing: bool = False
) -> "Iterator[Store]":
    """Open the data that a settings file names, or a data directory; raise BadSettings.

    Each part is opened when it is first asked for, and closed with the block.
    """
    with ExitStack() as opened:
        yield Store(choose_config(config, data), data, opened, is_writing=is_writing)


class Store:
    """The database, the log and the evidence of a longwatch, wherever the settings have them.

    Each property raises Failed where the file is not there, StorageBlocked and StorageUnfit.
    """

    def __init__(
        self, config: Path | None, data: Path | None, exit_stack: ExitStack, *, is_writing: bool
    ) -> None:
        self._config = config
        self._data_option = data
        self._exit_stack = exit_stack
        self._is_writing = is_writing

    @cached_property
    def data(self) -> Path:
        """Return the data directory."""
        from deploy.config.settings import DataSettings
        from deploy.config.settings_file import read_subset

        if self._config is None:
            return require_data_dir(self._data_option)
        return read_subset(self._config, DataSettings).data

    @property
    def evidence(self) -> Path:
        """Return the folder of stills."""
        return self.data / EVIDENCE_FOLDER

    @cached_property
    def database_url(self) -> str:
        """Return the url of the database, whether it is there or not."""
        from deploy.config.partial_settings import DatabaseSubset
        from deploy.config.settings_file import read_subset

        if self._config is None:
            return database_url(require_data_dir(self._data_option))
        return database_location(read_subset(self._config, DatabaseSubset))

    @property
    def has_database(self) -> bool:
        """Return whether there is a database: a file that is not there was not written yet."""
        from storage.db.database import database_file

        path = database_file(self.database_url)
        return path is None or path.exists()

    @cached_property
    def incidents(self) -> "AlertStore":
        """Return incidents, and all that the database keeps of them."""
        from storage.db.alert_store import AlertStore
        from storage.db.database import database_file, open_database

        path = database_file(self.database_url)
        if path is not None:
            check_file(path)
        engine = open_database(self.database_url, read_only=not self._is_writing)
        self._exit_stack.callback(engine.dispose)
        return AlertStore(engine)

    @cached_property
    def coverage(self) -> "CoverageStore":
        """Return the coverage of cameras."""
        from storage.db.rows.coverage import CoverageStore

        return CoverageStore(self.incidents.engine)

    @cached_property
    def findings(self) -> "FindingStore":
        """Return the findings."""
        from storage.db.rows.findings import FindingStore

        return FindingStore(self.incidents.engine)

    @cached_property
    def outbox(self) -> "Outbox":
        """Return the deliveries and the receivers."""
        from storage.db.outbox import Outbox

        return Outbox(self.incidents)

    @cached_property
    def silences(self) -> "SilenceStore":
        """Return the silences."""
        from storage.db.silences import SilenceStore

        return SilenceStore(self.incidents)

    @cached_property
    def log(self) -> "Log":
        """Return the log, which has to be there."""
        place = self._log_location
        if isinstance(place, Path):
            check_file(place)
        return self._open_log(place)

    @cached_property
    def writable_log(self) -> "Log":
        """Return the log of those who write; its file is made where it is not there."""
        return self._open_log(self._log_location)

    @cached_property
    def _log_location(self) -> "Path | KafkaConfig":
        from deploy.config.partial_settings import LogSubset
        from deploy.config.settings_file import read_subset

        if self._config is None:
            return require_data_dir(self._data_option) / LOG_FILE
        return log_location(read_subset(self._config, LogSubset))

    def _open_log(self, location: "Path | KafkaConfig") -> "Log":
        from storage.log.open_log import open_log

        log = open_log(location, read_only=not self._is_writing)
        self._exit_stack.callback(log.close)
        return log


def check_file(file: Path) -> None:
    """Raise Failed where a file is not there, or nobody lets us look."""
    try:
        if file.is_file():
            return
    except PermissionError:
        raise CommandFailed(f"{file} cannot be read: run this as the user of longwatch") from None
    raise CommandFailed(
        f"{file.parent} holds no {file.name}: name the data of a longwatch that ran"
    )

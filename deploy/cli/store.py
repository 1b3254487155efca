"""The database, the log and the evidence that a command works on.

A command that only reads opens them for reading, and makes, migrates, locks and writes nothing.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.config.data_dir import EVIDENCE_FOLDER, LOG_FILE, database_url
from deploy.config.find import default_config
from deploy.errors import BadSettings, CommandFailed

if TYPE_CHECKING:
    from storage.db.alert_store import AlertStore
    from storage.db.outbox import Outbox
    from storage.db.rows.coverage import CoverageStore
    from storage.db.rows.findings import FindingStore
    from storage.db.silences import SilenceStore
    from storage.log.kafka.client.config import KafkaConfig
    from storage.log.log import Log


@dataclass(frozen=True, slots=True)
class DataOptions:
    """The options `--config` and `--data` of a command."""

    config: Path | None
    data: Path | None

    def find_config(self) -> Path | None:
        """Return the settings file; None if `--data` names a data directory instead."""
        if self.config is not None and self.data is not None:
            raise BadSettings("name one of --config FILE and --data DIR")
        if self.data is not None:
            return None
        return self.config or default_config("--config FILE or --data DIR")


@contextmanager
def open_store(options: DataOptions, *, is_writing: bool = False) -> "Iterator[Store]":
    """Yield the store that the options name; raise BadSettings.

    Each part opens on first use, and closes with the block.
    """
    with ExitStack() as opened:
        yield Store(options.find_config(), options.data, opened, is_writing=is_writing)


class Store:
    """The database, the log and the evidence of a longwatch.

    Each property raises CommandFailed if the file is missing, StorageBlocked and StorageUnfit.
    """

    def __init__(
        self, config: Path | None, data: Path | None, exit_stack: ExitStack, *, is_writing: bool
    ) -> None:
        self._config = config
        self._data_dir = data or Path()
        self._exit_stack = exit_stack
        self._is_writing = is_writing

    @cached_property
    def data(self) -> Path:
        """Return the data directory."""
        from deploy.config.settings import DataSettings
        from deploy.config.settings_file import read_subset

        return read_subset(self._config, DataSettings).data if self._config else self._data_dir

    @property
    def evidence(self) -> Path:
        """Return the folder of stills."""
        return self.data / EVIDENCE_FOLDER

    @cached_property
    def database_url(self) -> str:
        """Return the url of the database, which may not exist."""
        from deploy.config.partial_settings import DatabaseSubset
        from deploy.config.settings_file import read_subset
        from deploy.config.storage_locations import database_location

        if self._config is None:
            return database_url(self._data_dir)
        return database_location(read_subset(self._config, DatabaseSubset))

    @property
    def has_database(self) -> bool:
        """Return whether the database exists; a server counts as existing."""
        from storage.db.database import database_file

        path = database_file(self.database_url)
        return path is None or path.exists()

    @cached_property
    def incidents(self) -> "AlertStore":
        """Return the incidents."""
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
        """Return the log, which has to exist."""
        from storage.log.open_log import open_log

        if isinstance(self._log_location, Path):
            check_file(self._log_location)
        log = open_log(self._log_location, read_only=not self._is_writing)
        self._exit_stack.callback(log.close)
        return log

    @cached_property
    def _log_location(self) -> "Path | KafkaConfig":
        from deploy.config.partial_settings import LogSubset
        from deploy.config.settings_file import read_subset
        from deploy.config.storage_locations import log_location

        if self._config is None:
            return self._data_dir / LOG_FILE
        return log_location(read_subset(self._config, LogSubset))


def check_file(file: Path) -> None:
    """Raise CommandFailed if a file is missing, or another user's."""
    try:
        if file.is_file():
            return
    except PermissionError:
        raise CommandFailed(f"{file} cannot be read: run this as the user of longwatch") from None
    message = f"{file.parent} contains no {file.name}: name the data of a longwatch that ran"
    raise CommandFailed(message)

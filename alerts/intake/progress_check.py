"""Whether alerts keeps up with the log."""

import threading
from datetime import timedelta

from alerts.intake.cursor import READER
from alerts.intake.log_availability import LogAvailability
from storage.db.alert_store import AlertStore, StoredOffset
from storage.errors import StorageBlocked
from storage.log.log import Log
from storage.records.topics import COVERAGE, FINDINGS

_MAX_OUTAGE = timedelta(seconds=5)
"""A log in a longer outage is not asked: its answer may take long."""

_WAIT_SECONDS = 0.5
"""How long a caller waits for the check; a later call returns a late result."""


class ProgressCheck:
    """Compare the offsets of alerts with the ends of the log, from check to check.

    A separate thread does so, as the log may hang; for one caller.
    """

    def __init__(
        self, log: Log, store: AlertStore, availability: LogAvailability | None = None
    ) -> None:
        self._log = log
        self._store = store
        self._availability = availability
        self._last_offsets: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._has_progressed = False

    def observe(self) -> bool:
        """Return whether every partition is consumed, or has advanced since the last check.

        False if the log does not answer yet; call again.
        """
        if self._availability is not None and self._availability.is_down_for(_MAX_OUTAGE):
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._compare, name="progress", daemon=True)
            self._thread.start()
        self._thread.join(_WAIT_SECONDS)
        if self._thread.is_alive():
            return False
        self._thread = None
        return self._has_progressed

    def _compare(self) -> None:
        self._has_progressed = False
        try:
            names = [*self._log.partitions(FINDINGS), *self._log.partitions(COVERAGE)]
            end_offsets = {name: self._log.end_offset(name) for name in names}
            cursors = self._store.stored_offsets(READER)
        except StorageBlocked:
            return
        offsets = {name: cursors.get(name, StoredOffset()).offset for name in names}
        before, self._last_offsets = self._last_offsets, offsets
        self._has_progressed = all(
            offset >= end_offsets[partition] or offset > before.get(partition, offset)
            for partition, offset in offsets.items()
        )

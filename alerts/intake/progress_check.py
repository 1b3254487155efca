"""Whether longwatch really reads what there is to read."""

import threading
from datetime import timedelta

from alerts.intake.cursor import READER
from alerts.intake.log_availability import LogAvailability
from storage.db.alert_store import AlertStore, StoredOffset
from storage.errors import StorageBlocked
from storage.log.log import Log
from storage.records.topics import COVERAGE, FINDINGS

_MAX_OUTAGE = timedelta(seconds=5)
"""A log that did not answer the judge for so long is not asked, which may take its time."""


_WAIT_SECONDS = 0.5
"""How long who asks waits for a look at the log; later looks bring the answer of this one."""


class ProgressCheck:
    """Compare where the judge stands with where the log ends, from look to look.

    A thread of its own looks, so that a log that hangs holds up nobody; for one caller.
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
        """Return whether the judge has moved since the last look, or has nothing left to read.

        False where the log does not answer, or not yet: ask again.
        """
        if self._availability is not None and self._availability.is_down_for(_MAX_OUTAGE):
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._compare, name="pulse", daemon=True)
            self._thread.start()
        self._thread.join(_WAIT_SECONDS)
        if self._thread.is_alive():
            return False
        self._thread = None
        return self._has_progressed

    def _compare(self) -> None:
        self._has_progressed = False
        try:
            partitions = [*self._log.partitions(FINDINGS), *self._log.partitions(COVERAGE)]
            end_offsets = {partition: self._log.end_offset(partition) for partition in partitions}
            cursors = self._store.stored_offsets(READER)
        except StorageBlocked:
            return
        offsets = {
            partition: cursors.get(partition, StoredOffset()).offset for partition in partitions
        }
        before, self._last_offsets = self._last_offsets, offsets
        self._has_progressed = all(
            offset >= end_offsets[partition] or offset > before.get(partition, offset)
            for partition, offset in offsets.items()
        )

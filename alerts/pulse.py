"""Whether longwatch really reads what there is to read."""

from datetime import timedelta

from alerts.contact import LogContact
from alerts.reading import READER
from storage.errors import StorageBlocked
from storage.incidents import Cursor, IncidentStore
from storage.log import COVERAGE, FINDINGS, Log

_PATIENCE = timedelta(seconds=5)
"""A log that did not answer the judge for so long is not asked, which may take its time."""


class Pulse:
    """Compare where the judge stands with where the log ends, from look to look."""

    def __init__(self, log: Log, store: IncidentStore, contact: LogContact | None = None) -> None:
        self._log = log
        self._store = store
        self._contact = contact
        self._stood: dict[str, int] = {}

    def beats(self) -> bool:
        """Return whether the judge has moved since the last look, or has nothing left to read.

        False where the log does not answer.
        """
        if self._contact is not None and self._contact.is_silent(_PATIENCE):
            return False
        try:
            parts = [*self._log.parts(FINDINGS), *self._log.parts(COVERAGE)]
            ends = {part: self._log.next(part) for part in parts}
        except StorageBlocked:
            return False
        cursors = self._store.cursors(READER)
        stands = {part: cursors.get(part, Cursor()).next for part in parts}
        before, self._stood = self._stood, stands
        return all(at >= ends[part] or at > before.get(part, at) for part, at in stands.items())

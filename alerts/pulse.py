"""Whether longwatch really reads what there is to read."""

import threading
from datetime import timedelta

from alerts.contact import LogContact
from alerts.reading import READER
from storage.errors import StorageBlocked
from storage.incidents import Cursor, IncidentStore
from storage.log import COVERAGE, FINDINGS, Log

_PATIENCE = timedelta(seconds=5)
"""A log that did not answer the judge for so long is not asked, which may take its time."""


_WAIT_SECONDS = 0.5
"""How long who asks waits for a look at the log; later looks bring the answer of this one."""


class Pulse:
    """Compare where the judge stands with where the log ends, from look to look.

    A thread of its own looks, so that a log that hangs holds up nobody; for one caller.
    """

    def __init__(self, log: Log, store: IncidentStore, contact: LogContact | None = None) -> None:
        self._log = log
        self._store = store
        self._contact = contact
        self._stood: dict[str, int] = {}
        self._looking: threading.Thread | None = None
        self._is_beating = False

    def beats(self) -> bool:
        """Return whether the judge has moved since the last look, or has nothing left to read.

        False where the log does not answer, or not yet: ask again.
        """
        if self._contact is not None and self._contact.is_silent(_PATIENCE):
            return False
        if self._looking is None:
            self._looking = threading.Thread(target=self._look, name="pulse", daemon=True)
            self._looking.start()
        self._looking.join(_WAIT_SECONDS)
        if self._looking.is_alive():
            return False
        self._looking = None
        return self._is_beating

    def _look(self) -> None:
        self._is_beating = False
        try:
            parts = [*self._log.parts(FINDINGS), *self._log.parts(COVERAGE)]
            ends = {part: self._log.next(part) for part in parts}
            cursors = self._store.cursors(READER)
        except StorageBlocked:
            return
        stands = {part: cursors.get(part, Cursor()).next for part in parts}
        before, self._stood = self._stood, stands
        self._is_beating = all(
            at >= ends[part] or at > before.get(part, at) for part, at in stands.items()
        )

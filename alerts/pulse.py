"""Whether longwatch really reads what there is to read."""

from alerts.reading import READER
from storage.incidents import IncidentStore
from storage.log import COVERAGE, FINDINGS, Log


class Pulse:
    """Compare where the judge stands with where the log ends, from look to look."""

    def __init__(self, log: Log, store: IncidentStore) -> None:
        self._log = log
        self._store = store
        self._stood: dict[str, int] = {}

    def beats(self) -> bool:
        """Tell whether the judge has moved since the last look, or has nothing left to read."""
        parts = [*self._log.parts(FINDINGS), *self._log.parts(COVERAGE)]
        moves = [self._moves(part) for part in parts]
        return all(moves)

    def _moves(self, part: str) -> bool:
        end, stands = self._log.next(part), self._store.position(READER, part)
        before = self._stood.get(part, stands)
        self._stood[part] = stands
        return stands >= end or stands > before

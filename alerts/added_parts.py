"""Parts that others add to a topic, and write to: read after what waited in the others by then."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby

from storage.incidents import Cursor
from storage.log import Log


class AddedParts:
    """Hold back the parts that were added to a topic, so that each camera stays in order.

    Who writes with Kafka's own partitioner puts a camera elsewhere once a topic has grown.
    `cursors` gives the stored positions: a part without one was never read. Nothing is kept:
    a new process asks again.
    """

    def __init__(self, log: Log, cursors: Callable[[], Mapping[str, Cursor]]) -> None:
        self._log = log
        self._cursors = cursors
        self._known = frozenset[str]()
        self._ends: dict[str, int] = {}

    def readable(self, parts: Sequence[str]) -> list[str]:
        """Return those of the parts that may be read by now; raises StorageBlocked."""
        if self._known.issuperset(parts):
            return list(parts)
        cursors = self._cursors()
        found = list[str]()
        for _, each in groupby(parts, lambda part: part.rpartition("-")[0]):
            found += self._readable_of(list(each), cursors)
        self._known = frozenset(found)
        return found

    def _readable_of(self, parts: list[str], cursors: Mapping[str, Cursor]) -> list[str]:
        """Do the same for the parts of one topic."""
        before = [part for part in parts if part in cursors]
        if not before or len(before) == len(parts) or self._are_read(before, cursors):
            return parts
        return before

    def _are_read(self, parts: Collection[str], cursors: Mapping[str, Cursor]) -> bool:
        """Return whether parts are read up to where they ended when this was first asked."""
        self._ends |= {part: self._log.next(part) for part in parts if part not in self._ends}
        return all(self._position(part, cursors[part]) >= self._ends[part] for part in parts)

    def _position(self, part: str, cursor: Cursor) -> int:
        return cursor.next if cursor.log in (None, self._log.identity(part)) else 0

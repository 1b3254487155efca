"""What this process has committed last, and what of it the database has lost.

A server that acknowledged a commit may lose it: by a failover to a standby that was behind
(asynchronous replication), or by an older backup. Then positions and the audit trail go back.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from storage import audit, tables
from storage.chain import Anchor

_AUDIT, _POSITIONS = tables.audit, tables.positions
_NAMED = 3
"""How many of the losses a line names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What went back from where this process had committed it to where it is in the database."""

    what: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.what} from {self.before} to {self.after}"


class LastCommits:
    """The positions and the end of the audit trail as this process committed them last."""

    def __init__(self) -> None:
        self._positions = dict[tuple[str, str], int]()
        self._trail: Anchor | None = None

    def note(self, positions: Mapping[tuple[str, str], int], trail: Anchor | None) -> None:
        """Note what a commit that was acknowledged has moved; one thread at a time."""
        self._positions |= positions
        if trail is not None and (self._trail is None or trail.number > self._trail.number):
            self._trail = trail

    def forget(self) -> None:
        """Take the database as it is."""
        self._positions, self._trail = {}, None

    def noted(self) -> "LastCommits":
        """Return a copy, which is compared with what is read after it was made."""
        copy = LastCommits()
        copy.note(dict(self._positions), self._trail)
        return copy

    @property
    def is_empty(self) -> bool:
        """Return whether nothing was committed yet."""
        return not self._positions and self._trail is None

    def losses(self, connection: Connection) -> list[Loss]:
        """Return what the database no longer has."""
        query = select(_POSITIONS.c.reader, _POSITIONS.c.topic, _POSITIONS.c.next)
        stored = {(row.reader, row.topic): row.next for row in connection.execute(query)}
        found = [
            Loss(what=f"{reader} of {topic}", before=before, after=stored.get((reader, topic), 0))
            for (reader, topic), before in sorted(self._positions.items())
        ]
        trail = self._lost_trail(connection)
        return [each for each in found if each.after < each.before] + ([trail] if trail else [])

    def _lost_trail(self, connection: Connection) -> Loss | None:
        """Return where the trail ends that lacks our last entry; retention removes some rightly."""
        if self._trail is None:
            return None
        number = self._trail.number
        digest = select(_AUDIT.c.digest).where(_AUDIT.c.number == number)
        found = connection.execute(digest).scalar()
        end = audit.last(connection).number
        if found == self._trail.digest or (found is None and end >= number):
            return None
        return Loss(what="the audit trail", before=number, after=min(end, number - 1))


def losses_text(losses: list[Loss]) -> str:
    """Return losses as a line names them: the first few, and how many more."""
    named = ", ".join(map(str, losses[:_NAMED]))
    more = len(losses) - _NAMED
    return f"{named} and {more} more" if more > 0 else named

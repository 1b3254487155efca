"""What this process has committed last, and what of it the database has lost.

A server that acknowledged a commit may lose it: by a failover to a standby that was behind
(asynchronous replication), or by an older backup. Then positions and the audit trail go back.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from storage.db import tables
from storage.db.audit import trail
from storage.db.audit.hash_chain import ChainAnchor

_AUDIT, _POSITIONS = tables.audit, tables.positions
_MAX_LISTED = 3
"""How many of the losses a line names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LostCommit:
    """What went back from where this process had committed it to where it is in the database."""

    subject: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.subject} from {self.before} to {self.after}"


class CommitTracker:
    """The positions and the end of the audit trail as this process committed them last."""

    def __init__(self) -> None:
        self._offsets = dict[tuple[str, str], int]()
        self._audit_anchor: ChainAnchor | None = None

    def record(
        self, offsets: Mapping[tuple[str, str], int], audit_anchor: ChainAnchor | None
    ) -> None:
        """Note what a commit that was acknowledged has moved; one thread at a time."""
        self._offsets |= offsets
        if audit_anchor is not None and (
            self._audit_anchor is None or audit_anchor.number > self._audit_anchor.number
        ):
            self._audit_anchor = audit_anchor

    def reset(self) -> None:
        """Take the database as it is."""
        self._offsets, self._audit_anchor = {}, None

    def snapshot(self) -> "CommitTracker":
        """Return a copy, which is compared with what is read after it was made."""
        copy = CommitTracker()
        copy.record(dict(self._offsets), self._audit_anchor)
        return copy

    @property
    def is_empty(self) -> bool:
        """Return whether nothing was committed yet."""
        return not self._offsets and self._audit_anchor is None

    def find_lost(self, connection: Connection) -> list[LostCommit]:
        """Return what the database no longer has."""
        query = select(_POSITIONS.c.reader, _POSITIONS.c.topic, _POSITIONS.c.next)
        stored = {(row.reader, row.topic): row.next for row in connection.execute(query)}
        found = [
            LostCommit(
                subject=f"{group} of {topic}", before=before, after=stored.get((group, topic), 0)
            )
            for (group, topic), before in sorted(self._offsets.items())
        ]
        lost_audit = self._find_lost_audit(connection)
        return [each for each in found if each.after < each.before] + (
            [lost_audit] if lost_audit else []
        )

    def _find_lost_audit(self, connection: Connection) -> LostCommit | None:
        """Return where the trail ends that lacks our last entry; retention removes some rightly."""
        if self._audit_anchor is None:
            return None
        number = self._audit_anchor.number
        digest = select(_AUDIT.c.digest).where(_AUDIT.c.number == number)
        found = connection.execute(digest).scalar()
        end = trail.trail_anchor(connection).number
        if found == self._audit_anchor.digest or (found is None and end >= number):
            return None
        return LostCommit(subject="the audit trail", before=number, after=min(end, number - 1))


def format_losses(losses: list[LostCommit]) -> str:
    """Return losses as a line names them: the first few, and how many more."""
    named = ", ".join(map(str, losses[:_MAX_LISTED]))
    more = len(losses) - _MAX_LISTED
    return f"{named} and {more} more" if more > 0 else named

"""A share of a topic's parts among the readers of one SQLite file, by leases in the file.

Each member keeps a lease and acts for itself alone: it gives back what it owns beyond its quota,
and takes what no member with a valid lease owns. The file says who owns a part and how often it
was taken, so that a commit is refused in the very transaction that would have made it.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog

from storage.errors import PositionMoved, StorageError
from storage.log import Commit, Message, microseconds

if TYPE_CHECKING:
    from storage.sqlite_log import SqliteLog

FIRST_PROMISE = 600.0
"""Seconds that a reader may take until it is first heard of."""
LEASE = 15.0
"""Seconds until the others take the parts of a member that is gone."""
RENEWALS = 5
"""How often a lease is renewed before it would end."""
_LOOK, _SETTLING = 0.5, 0.2
"""Seconds between two looks for members that came or went, and while parts are still to come."""

_say = structlog.get_logger("storage.share")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What one member gives back and takes, so that all own about as many parts.

    It is idle where the others are as many as the parts.
    """

    give: Sequence[str]
    take: Sequence[str]
    is_done: bool
    is_idle: bool


def settle(
    parts: Sequence[str], owners: Mapping[str, str], members: Sequence[str], member: str
) -> Settlement:
    """Return what one of the living members does; who joined first owns one more."""
    quota = len(parts) // len(members) + (members.index(member) < len(parts) % len(members))
    mine = [part for part in parts if owners.get(part) == member]
    free = [part for part in parts if owners.get(part) not in members]
    take = free[: max(0, quota - len(mine))]
    is_done = len(mine) + len(take) >= quota
    return Settlement(give=mine[quota:], take=take, is_done=is_done, is_idle=quota == 0)


class SqliteShare:
    """The parts that this reader owns among its like; a thread of its own renews its lease."""

    def __init__(self, log: "SqliteLog", reader: str, topic: str, lease: float = LEASE) -> None:
        self._log = log
        self._reader = reader
        self._topic = topic
        self._lease = lease
        self._member = uuid4().hex
        self._deadline = time.monotonic() + FIRST_PROMISE
        self._tenures: Mapping[str, int] = {}
        self._members: Sequence[str] = ()
        self._is_settled = False
        self._renewed_at = 0.0
        self._stop = threading.Event()
        self._try(self._renew)
        self._thread = threading.Thread(target=self._run, name=f"lease-{reader}", daemon=True)
        self._thread.start()

    def parts(self) -> frozenset[str]:
        """Return the parts that are owned now."""
        return frozenset(self._tenures)

    def tenure(self, part: str) -> int:
        """Return how often the part had been taken when this reader took it."""
        return self._tenures.get(part, 0)

    def committed(self, part: str) -> int:
        """Return the position where the owner goes on; 0 when none ever committed."""
        return self._log.committed(self._reader, part)

    def commit(self, part: str, position: int, tenure: int) -> None:
        """Keep the position where the owner goes on; PositionMoved where its tenure is over."""
        with self._log.transaction() as db:
            self._write(db, part, Commit(position, tenure))

    def append(self, messages: Sequence[Message], commits: Mapping[str, Commit]) -> bool:
        """Append messages and keep positions, all or nothing; return True.

        Raises PositionMoved, whose `topic` is the part of which the tenure is over.
        """
        with self._log.transaction() as db:
            for part, commit in commits.items():
                self._write(db, part, commit)
            if messages:
                self._log.write_messages(messages)
        return True

    def promise(self, seconds: float) -> None:
        """Say that this reader will be heard of within so many seconds; else it loses its parts."""
        self._deadline = time.monotonic() + seconds

    def close(self) -> None:
        """Give the parts to the others."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self._try(self._leave)

    def _write(self, db: sqlite3.Connection, part: str, commit: Commit) -> None:
        own = self._log.paired(part, self._topic)
        query = "SELECT member, tenure FROM owners WHERE reader = ? AND part = ?"
        owner = db.execute(query, (self._reader, own)).fetchone()
        if owner != (self._member, commit.tenure):
            raise PositionMoved(self._reader, part, commit.position)
        self._log.write_position(self._reader, part, commit.position)

    def _run(self) -> None:
        """Renew the lease, except while the reader is silent for longer than it promised."""
        pause = self._lease / RENEWALS
        while not self._stop.wait(min(pause, _LOOK if self._is_settled else _SETTLING)):
            self._try(self._lapse if time.monotonic() > self._deadline else self._look)

    def _look(self) -> None:
        """Renew where it is time, where parts are still to come, or where others came or went."""
        is_due = time.monotonic() >= self._renewed_at + self._lease / RENEWALS
        members = self._log.members(self._reader, self._topic)
        if is_due or not self._is_settled or members != self._members:
            self._renew()

    def _lapse(self) -> None:
        if self._tenures:
            _say.error("no sign of life: its parts are given to others", reader=self._reader)
            self._leave()
            self._is_settled = False

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except StorageError as error:
            _say.warning("lease not renewed", reader=self._reader, reason=str(error))

    def _renew(self) -> None:
        """Extend the lease, give and take parts, and read back what is owned.

        A power cut ends every reader: whoever comes after it takes the parts anew.
        """
        self._renewed_at = time.monotonic()
        with self._log.transaction(durable=False) as db:
            self._extend(db)
            members = self._log.members(self._reader, self._topic)
            query = "SELECT part, member FROM owners WHERE reader = ?"
            owners = dict(db.execute(query, (self._reader,)).fetchall())
            change = settle(self._log.parts(self._topic), owners, members, self._member)
            self._give(db, change.give)
            self._take(db, change.take)
            tenures = self._owned(db)
        if tenures.keys() != self._tenures.keys() and len(members) > 1:
            _say.info("parts assigned", reader=self._reader, parts=sorted(tenures))
        if change.is_idle and not self._is_settled:
            _say.warning("others have every part: this reader waits", reader=self._reader)
        self._tenures, self._is_settled, self._members = tenures, change.is_done, members

    def _extend(self, db: sqlite3.Connection) -> None:
        """Extend the own lease, and drop the members whose lease is over.

        A lease that ends later than any could is of a clock that was set back.
        """
        now, lease = microseconds(datetime.now(UTC)), int(self._lease * 1e6)
        group = (self._reader, self._topic)
        db.execute(
            "DELETE FROM members WHERE reader = ? AND topic = ? AND lease NOT BETWEEN ? AND ?",
            (*group, now, now + 2 * lease),
        )
        db.execute(
            "INSERT INTO members VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET lease = excluded.lease",
            (*group, self._member, now + lease),
        )

    def _give(self, db: sqlite3.Connection, parts: Sequence[str]) -> None:
        rows = [(self._reader, part, self._member) for part in parts]
        db.executemany(
            "UPDATE owners SET member = '' WHERE reader = ? AND part = ? AND member = ?", rows
        )

    def _take(self, db: sqlite3.Connection, parts: Sequence[str]) -> None:
        rows = [(self._reader, part, self._member) for part in parts]
        db.executemany(
            "INSERT INTO owners VALUES (?, ?, ?, 1)"
            " ON CONFLICT DO UPDATE SET member = excluded.member, tenure = tenure + 1",
            rows,
        )

    def _owned(self, db: sqlite3.Connection) -> dict[str, int]:
        query = "SELECT part, tenure FROM owners WHERE reader = ? AND member = ?"
        found = dict(db.execute(query, (self._reader, self._member)).fetchall())
        return {part: found[part] for part in self._log.parts(self._topic) if part in found}

    def _leave(self) -> None:
        owned, self._tenures = list(self._tenures), {}
        with self._log.transaction() as db:
            self._give(db, owned)
            db.execute("DELETE FROM members WHERE member = ?", (self._member,))

"""Group membership by leases in one SQLite file.

Each member keeps a lease and acts for itself: it releases the partitions beyond its quota, and
acquires those that no member with a valid lease owns. The file says who owns a partition, and how
often it was acquired, so a stale commit is refused in its own transaction.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import structlog

from storage.errors import OffsetMoved, StorageError
from storage.log.log import LogMessage, OffsetCommit, to_microseconds
from storage.log.partitions import paired_partition
from storage.log.sqlite.file import SqliteFile

FIRST_KEEPALIVE = 600.0
"""Seconds that a member may take until its first keepalive."""
LEASE_SECONDS = 15.0
"""Seconds until the others acquire the partitions of a lost member."""
RENEWALS_PER_LEASE = 5
"""How often a lease is renewed before it would expire."""
_POLL_SECONDS, _REBALANCE_SECONDS = 0.5, 0.2
"""Seconds between two checks of the members, when balanced and while not."""

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalanceStep:
    """The partitions that one member releases and acquires, so that all own about as many.

    It is on standby if the other members are as many as the partitions.
    """

    release: Sequence[str]
    acquire: Sequence[str]
    is_balanced: bool
    is_standby: bool


def plan_rebalance(
    partitions: Sequence[str], owners: Mapping[str, str], members: Sequence[str], member: str
) -> RebalanceStep:
    """Return the step of one live member; those that joined first own one more."""
    quota = len(partitions) // len(members) + (
        members.index(member) < len(partitions) % len(members)
    )
    owned = [partition for partition in partitions if owners.get(partition) == member]
    free = [partition for partition in partitions if owners.get(partition) not in members]
    acquire = free[: max(0, quota - len(owned))]
    is_balanced = len(owned) + len(acquire) >= quota
    return RebalanceStep(
        release=owned[quota:], acquire=acquire, is_balanced=is_balanced, is_standby=quota == 0
    )


class SqliteGroupMembership:
    """The partitions that one member owns; a thread renews its lease."""

    def __init__(
        self, log: SqliteFile, group: str, topic: str, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self._log = log
        self._group = group
        self._topic = topic
        self._lease_seconds = lease_seconds
        self._member = uuid4().hex
        self._deadline = time.monotonic() + FIRST_KEEPALIVE
        self._generations: Mapping[str, int] = {}
        self._members: Sequence[str] = ()
        self._is_balanced = False
        self._renewed_at = 0.0
        self._stop = threading.Event()
        self._log_errors(self._renew)
        self._thread = threading.Thread(target=self._run, name=f"lease-{group}", daemon=True)
        self._thread.start()

    def partitions(self) -> frozenset[str]:
        """Return the partitions owned now."""
        if not self._thread.is_alive() and not self._stop.is_set():
            raise RuntimeError("the thread that renews the lease has ended")
        return frozenset(self._generations)

    def generation(self, partition: str) -> int:
        """Return how often the partition had been acquired, up to this member."""
        return self._generations.get(partition, 0)

    def committed(self, partition: str) -> int:
        """Return the next offset for the owner; 0 if none was ever committed."""
        return self._log.committed(self._group, partition)

    def commit(self, partition: str, offset: int, generation: int) -> None:
        """Commit the next offset; OffsetMoved if the generation is over."""
        with self._log.transaction() as db:
            self._commit_offset(db, partition, OffsetCommit(offset, generation))

    def append(self, messages: Sequence[LogMessage], commits: Mapping[str, OffsetCommit]) -> bool:
        """Append messages and commit offsets, all or none; return True.

        Raises OffsetMoved, whose `partition` this member no longer owns.
        """
        with self._log.transaction() as db:
            for partition, commit in commits.items():
                self._commit_offset(db, partition, commit)
            if messages:
                self._log.write_messages(messages)
        return True

    def keepalive(self, seconds: float) -> None:
        """Promise another call within `seconds`; without one this member loses its partitions."""
        self._deadline = time.monotonic() + seconds

    def close(self) -> None:
        """Leave the group: the other members take over the partitions."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self._log_errors(self._leave)

    def _commit_offset(self, db: sqlite3.Connection, partition: str, commit: OffsetCommit) -> None:
        owned = paired_partition(partition, self._topic)
        query = "SELECT member, tenure FROM owners WHERE reader = ? AND part = ?"
        owner = db.execute(query, (self._group, owned)).fetchone()
        if owner != (self._member, commit.generation):
            raise OffsetMoved(self._group, partition, commit.offset)
        self._log.write_offset(self._group, partition, commit.offset)

    def _run(self) -> None:
        """Renew the lease, until the promised keepalive is overdue."""
        pause = self._lease_seconds / RENEWALS_PER_LEASE
        while not self._stop.wait(
            min(pause, _POLL_SECONDS if self._is_balanced else _REBALANCE_SECONDS)
        ):
            self._log_errors(
                self._expire if time.monotonic() > self._deadline else self._check_members
            )

    def _check_members(self) -> None:
        """Renew the lease if it is due, while not balanced, or if the members have changed."""
        is_due = time.monotonic() >= self._renewed_at + self._lease_seconds / RENEWALS_PER_LEASE
        members = self._log.members(self._group, self._topic)
        if is_due or not self._is_balanced or members != self._members:
            self._renew()

    def _expire(self) -> None:
        if self._generations:
            logger.error(
                "no keepalive from the worker: leaving the consumer group", reader=self._group
            )
            self._leave()
            self._is_balanced = False

    def _log_errors(self, action: Callable[[], None]) -> None:
        try:
            action()
        except StorageError as error:
            logger.warning("lease not renewed", reader=self._group, reason=str(error))

    def _renew(self) -> None:
        """Extend the lease, release and acquire partitions, and read back those owned.

        It need not survive a power cut, which ends every member.
        """
        self._renewed_at = time.monotonic()
        with self._log.transaction(durable=False) as db:
            self._extend_lease(db)
            members = self._log.members(self._group, self._topic)
            query = "SELECT part, member FROM owners WHERE reader = ?"
            owners = dict(db.execute(query, (self._group,)).fetchall())
            step = plan_rebalance(self._log.partitions(self._topic), owners, members, self._member)
            self._release(db, step.release)
            self._acquire(db, step.acquire)
            generations = self._owned_generations(db)
        if generations.keys() != self._generations.keys() and len(members) > 1:
            logger.info("parts assigned", reader=self._group, parts=sorted(generations))
        if step.is_standby and not self._is_balanced:
            logger.warning(
                "the other members own every partition: this one is on standby", reader=self._group
            )
        self._generations, self._is_balanced, self._members = generations, step.is_balanced, members

    def _extend_lease(self, db: sqlite3.Connection) -> None:
        """Extend our lease, and drop the members whose lease has expired.

        A lease that ends later than possible was written before the clock was set back.
        """
        now, lease = to_microseconds(datetime.now(UTC)), int(self._lease_seconds * 1e6)
        group = (self._group, self._topic)
        db.execute(
            "DELETE FROM members WHERE reader = ? AND topic = ? AND lease NOT BETWEEN ? AND ?",
            (*group, now, now + 2 * lease),
        )
        db.execute(
            "INSERT INTO members VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET lease = excluded.lease",
            (*group, self._member, now + lease),
        )

    def _release(self, db: sqlite3.Connection, partitions: Sequence[str]) -> None:
        rows = [(self._group, partition, self._member) for partition in partitions]
        db.executemany(
            "UPDATE owners SET member = '' WHERE reader = ? AND part = ? AND member = ?", rows
        )

    def _acquire(self, db: sqlite3.Connection, partitions: Sequence[str]) -> None:
        rows = [(self._group, partition, self._member) for partition in partitions]
        db.executemany(
            "INSERT INTO owners VALUES (?, ?, ?, 1)"
            " ON CONFLICT DO UPDATE SET member = excluded.member, tenure = tenure + 1",
            rows,
        )

    def _owned_generations(self, db: sqlite3.Connection) -> dict[str, int]:
        query = "SELECT part, tenure FROM owners WHERE reader = ? AND member = ?"
        found = dict(db.execute(query, (self._group, self._member)).fetchall())
        return {
            partition: found[partition]
            for partition in self._log.partitions(self._topic)
            if partition in found
        }

    def _leave(self) -> None:
        owned, self._generations = list(self._generations), {}
        with self._log.transaction() as db:
            self._release(db, owned)
            db.execute("DELETE FROM members WHERE member = ?", (self._member,))

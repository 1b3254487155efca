"""The dispatcher: flushes due groups, and writes a delivery for each message.

One flush of a receiver is one transaction: its deliveries, its notifications, and the next due
time of its groups. A crash keeps all of it or nothing, and unwritten groups stay due.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from threading import Event

import structlog

from alerts.dispatch.describer import DEFAULT_DESCRIBER, Describer
from alerts.dispatch.flush import ReceiverFlush, ReceiverPause, write_deliveries
from alerts.dispatch.grouping import NotificationPolicy, first_due
from alerts.dispatch.heartbeat import Heartbeat
from alerts.dispatch.messages import HEARTBEAT, build_message
from alerts.dispatch.muting import Muter, silence_from_row
from alerts.intake.progress_check import ProgressCheck
from storage.db import silences
from storage.db.alert_store import AlertStore
from storage.db.rows import due_groups
from storage.db.transaction import PendingWork, Transaction
from storage.loop import repeat, wait_for

logger = structlog.get_logger()


class Dispatcher:
    """Write deliveries, group by group; the courier sends them.

    A receiver without a token is paused, except for critical incidents.
    """

    def __init__(
        self,
        store: AlertStore,
        policy: NotificationPolicy,
        heartbeat: Heartbeat | None = None,
        progress_check: ProgressCheck | None = None,
        describer: Describer = DEFAULT_DESCRIBER,
    ) -> None:
        self._store = store
        self._policy = policy
        self._heartbeat = heartbeat
        self._progress_check = progress_check
        self._describer = describer
        self._pauses: dict[str, ReceiverPause] = {}
        self._checked_at: datetime | None = None
        self._heartbeat_at: datetime | None = None
        sources = [each.source for each in policy.inhibitions]
        self._inhibiting_rules = frozenset[str]().union(*sources)

    def run(self, stop: Event) -> None:
        """Dispatch until stopped; waits out blocked storage, raises any other error."""
        repeat(lambda: self.run_once(datetime.now(UTC)), stop, logger, wait=self._wait)

    def run_once(self, now: datetime) -> int:
        """Flush due groups, and write heartbeats; return how many messages were written."""
        self._checked_at = now
        self._schedule_arrivals(now)
        self._reschedule_far_future(now)
        self._pauses = {name: each for name, each in self._pauses.items() if _lasts(each, now)}
        names = self._store.rows(due_groups.due_receivers_query(now, self._pauses))
        written = sum(self._flush(row.receiver, now) for row in names)
        critical_due = [name for name, pause in self._pauses.items() if pause.critical_at <= now]
        if critical_due:
            rows = self._store.rows(due_groups.critical_receivers_query(now, critical_due))
            written += sum(self._flush(row.receiver, now, critical_only=True) for row in rows)
        return written + self._write_heartbeats(now)

    def _wait(self, stop: Event, seconds: float) -> None:
        """Wait for a changed incident, or until the next group is due."""
        now = datetime.now(UTC)
        waits = min((at - now for at in self._next_instants(self._checked_at or now)), default=None)
        if waits is not None:
            seconds = min(seconds, waits.total_seconds())
        wait_for(self._store.pending_work[PendingWork.DISPATCH], stop, seconds)

    def _next_instants(self, checked_at: datetime) -> Iterator[datetime]:
        """Yield the later instants at which a group comes due or a pause ends."""
        for pause in self._pauses.values():
            yield from (at for at in (pause.until, pause.critical_at) if at > checked_at)
        rows = self._store.rows(due_groups.next_due_query(checked_at))
        yield from (row.due_at for row in rows if row.due_at)

    def _schedule_arrivals(self, now: datetime) -> None:
        """Set the due time of groups with changed incidents."""
        while self._store.rows(due_groups.any_changed_group_query()):
            with self._store.transaction() as transaction:
                arrived = due_groups.changed_groups(transaction.connection)
                transaction.notifications.save_groups(
                    replace(
                        each.group,
                        due_at=first_due(each, self._policy.policy_for(each.group.receiver), now),
                    )
                    for each in arrived
                )
                transaction.notifications.clear_news(each.group for each in arrived)

    def _reschedule_far_future(self, now: datetime) -> None:
        """Correct due times that a clock wrote while it was ahead."""
        latest = now + self._policy.longest_wait
        if self._store.rows(due_groups.any_due_after_query(latest)):
            with self._store.transaction() as transaction:
                due_groups.clamp_due_times(transaction.connection, latest, now)

    def _flush(self, receiver: str, now: datetime, *, critical_only: bool = False) -> int:
        with self._store.transaction() as transaction:
            muter = self._build_muter(transaction, now)
            flush = ReceiverFlush(
                transaction,
                self._policy,
                receiver,
                now,
                muter=muter,
                describer=self._describer,
                critical_only=critical_only,
            )
            written = flush.run()
        if flush.pause is not None:
            self._pauses[receiver] = flush.pause
        return written

    def _build_muter(self, transaction: Transaction, now: datetime) -> Muter:
        active = silences.active_silences(transaction.connection, now)
        return Muter(
            silences=list(map(silence_from_row, active)),
            maintenance=self._policy.maintenance,
            inhibitions=self._policy.inhibitions,
            firing=transaction.notifications.firing_incidents(self._inhibiting_rules),
        )

    def _write_heartbeats(self, now: datetime) -> int:
        """Write due heartbeats, but only while alerts keeps up with the log."""
        if self._heartbeat is None or not self._heartbeat.is_due(self._heartbeat_at, now):
            return 0
        if self._progress_check is None or not self._progress_check.observe():
            return 0
        counts = [
            self._write_heartbeat(self._heartbeat, each, now) for each in self._heartbeat.notify
        ]
        self._heartbeat_at = now
        return sum(counts)

    def _write_heartbeat(self, heartbeat: Heartbeat, receiver: str, now: datetime) -> int:
        with self._store.transaction() as transaction:
            id = transaction.notifications.ensure_group(receiver, {HEARTBEAT: "longwatch"})
            group = transaction.notifications.group(id)
            if not heartbeat.is_due(group.told_at, now):
                return 0
            group = replace(group, number=group.number + 1, told_at=now)
            parts = build_message(HEARTBEAT, group, [], now, origin=self._describer.origin)
            write_deliveries(transaction, group, (), parts, now)
            transaction.deliveries.delete_ended(id, group.number)
            transaction.notifications.save_group(group)
        return 1


def _lasts(pause: ReceiverPause, now: datetime) -> bool:
    """Return whether a pause lasts; a clock that was set back ends it."""
    return pause.since <= now < pause.until

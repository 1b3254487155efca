"""One flush of a receiver: its due groups, its tokens, its digests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from alerts.dispatch.describer import DEFAULT_DESCRIBER, Describer
from alerts.dispatch.digest import (
    MAX_IN_FULL,
    Digest,
    PlannedGroup,
    build_digest,
    build_pager_digest,
    order_by_priority,
)
from alerts.dispatch.grouping import (
    NotificationPolicy,
    is_firing,
    is_new,
    plan_notification,
    unsent_weight,
)
from alerts.dispatch.messages import (
    FIRING,
    HEALTH,
    INCIDENTS_DIGEST,
    RESOLVED,
    MessagePart,
    build_message,
    digest_entry,
)
from alerts.dispatch.muting import Muter
from alerts.dispatch.rate_limit import next_borrow_at
from storage.db.rows import due_groups
from storage.db.rows.deliveries import NewDelivery
from storage.db.transaction import PendingWork, Transaction
from storage.records.deliveries import Delivery, DeliveryState
from storage.records.notifications import (
    DIGEST,
    ChangeKind,
    GroupedIncident,
    NotificationGroup,
    NotificationState,
)

DIGEST_INTERVAL = timedelta(minutes=1)
"""The shortest time between two digests of a receiver."""
URGENT, ORDINARY = 0, 1
"""Priorities of deliveries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverPause:
    """A receiver gets nothing before `until`, and nothing critical before `critical_at`."""

    since: datetime
    until: datetime
    critical_at: datetime


class ReceiverFlush:
    """Write the messages of a receiver in one transaction; `pause` is set if tokens run out.

    With `critical_only`, critical incidents alone are sent, in one message (a digest if several
    groups are due). It may borrow its token.
    """

    def __init__(
        self,
        transaction: Transaction,
        policy: NotificationPolicy,
        receiver: str,
        now: datetime,
        *,
        muter: Muter,
        describer: Describer = DEFAULT_DESCRIBER,
        critical_only: bool = False,
    ) -> None:
        self._transaction = transaction
        self._policy = policy
        self._receiver_policy = policy.policy_for(receiver)
        self._receiver = receiver
        self._is_pager = receiver in policy.pagers
        self._now = now
        self._muter = muter
        self._describer = describer
        self._critical_only = critical_only
        self.pause: ReceiverPause | None = None

    def run(self) -> int:
        """Flush the due groups; return how many messages were written."""
        if not self._check_token():
            return 0
        min_weight = due_groups.CRITICAL_WEIGHT if self._critical_only else 0
        connection = self._transaction.connection
        groups = due_groups.due_groups(connection, self._receiver, self._now, min_weight)
        digests = [group for group in groups if DIGEST in group.labels]
        planned = self._plan_groups([group for group in groups if DIGEST not in group.labels])
        self._save([each for each in planned if not each.plan.incidents], {})
        to_send = [each for each in planned if each.plan.incidents]
        written = 0
        if to_send:
            last_served = due_groups.last_notified_by_camera(connection, self._receiver)
            written = self._write_messages(order_by_priority(to_send, last_served))
        return written + sum(self._close_digest(group.id) for group in digests)

    def _plan_groups(self, groups: Sequence[NotificationGroup]) -> list[PlannedGroup]:
        members = self._transaction.notifications.grouped_incidents(groups)
        return [self._plan(group, tuple(members[group.id])) for group in groups]

    def _plan(self, group: NotificationGroup, members: tuple[GroupedIncident, ...]) -> PlannedGroup:
        reasons = self._muter.reasons_for((each.incident for each in members), self._now)
        plan = plan_notification(group, members, reasons, self._receiver_policy, self._now)
        return PlannedGroup(group=group, members=members, plan=plan)

    def _write_messages(self, groups: Sequence[PlannedGroup]) -> int:
        """Write messages while there are tokens, or one digest of many groups."""
        if len(groups) > (1 if self._critical_only else self._receiver_policy.digest_after):
            return self._write_digest(groups)
        for written, planned in enumerate(groups):
            if not self._take_token():
                return written
            self._write_message(planned)
        return len(groups)

    def _check_token(self) -> bool:
        """Return whether there is a token; if not, pause the receiver."""
        rate = self._receiver_policy.rate_limit
        if rate is None:
            return True
        stored = self._transaction.notifications.bucket(self._receiver)
        bucket = rate.refilled_bucket(stored, self._now)
        later, critical = rate.next_token_at(bucket), next_borrow_at(bucket, self._now)
        if later <= self._now or (self._critical_only and critical <= self._now):
            return True
        self.pause = ReceiverPause(since=self._now, until=later, critical_at=critical)
        return False

    def _take_token(self) -> bool:
        """Take or borrow a token; return whether it could."""
        rate = self._receiver_policy.rate_limit
        if rate is None:
            return True
        if not self._check_token():
            return False
        rows = self._transaction.notifications
        bucket = rate.refilled_bucket(rows.bucket(self._receiver), self._now)
        if rate.next_token_at(bucket) <= self._now:
            bucket = replace(bucket, tokens=bucket.tokens - 1.0)
        else:
            bucket = rate.borrowed_bucket(bucket, self._now)
        rows.save_bucket(self._receiver, bucket)
        return True

    def _write_message(self, planned: PlannedGroup) -> None:
        group = replace(planned.group, number=planned.group.number + 1)
        incidents = [each.incident for each in planned.plan.incidents]
        fields = self._describer.describe(self._transaction, incidents)
        parts = build_message(
            self._message_kind(planned), group, fields, self._now, origin=self._describer.origin
        )
        delivery_ids = self._write_deliveries(group, planned.plan.incidents, parts)
        self._save([replace(planned, group=group)], delivery_ids)

    def _write_digest(self, groups: Sequence[PlannedGroup]) -> int:
        rows = self._transaction.notifications
        group = rows.group(rows.ensure_digest_group(self._receiver))
        last_at = group.told_at and min(group.told_at, self._now)
        if not self._critical_only and last_at and last_at + DIGEST_INTERVAL > self._now:
            later = last_at + DIGEST_INTERVAL
            self.pause = ReceiverPause(since=self._now, until=later, critical_at=later)
            return 0
        if not self._take_token():
            return 0
        digest = build_pager_digest(groups) if self._is_pager else build_digest(groups)
        goes_on = self._is_pager and (digest.left_out or group.due_at)
        group = replace(
            group,
            number=group.number + 1,
            told_at=self._now,
            due_at=self._now + DIGEST_INTERVAL if goes_on else None,
        )
        delivery_ids = self._write_deliveries(
            group, digest.members, self._digest_parts(group, digest)
        )
        self._save(digest.groups, delivery_ids)
        rows.save_group(group)
        return 1

    def _digest_parts(self, group: NotificationGroup, digest: Digest) -> list[MessagePart]:
        worst = [each.incident for each in digest.members[:MAX_IN_FULL]]
        rest = [digest_entry(each.incident) for each in digest.members[MAX_IN_FULL:]]
        fields = [*self._describer.describe(self._transaction, worst), *rest]
        more = digest.left_out if self._is_pager else None
        origin = self._describer.origin
        return build_message(INCIDENTS_DIGEST, group, fields, self._now, more=more, origin=origin)

    def _close_digest(self, id: UUID) -> int:
        """Close a pager's alert for waiting incidents once none waits; takes no token."""
        connection, group = self._transaction.connection, self._transaction.notifications.group(id)
        if group.due_at is None or group.due_at > self._now:
            return 0
        has_waiting = self._transaction.deliveries.has_waiting(group.id)
        if has_waiting or due_groups.has_pending(connection, self._receiver):
            group = replace(group, due_at=self._now + DIGEST_INTERVAL)
            self._transaction.notifications.save_group(group)
            return 0
        group = replace(group, number=group.number + 1, due_at=None)
        origin = self._describer.origin
        parts = build_message(INCIDENTS_DIGEST, group, [], self._now, more=0, origin=origin)
        self._write_deliveries(group, (), parts)
        self._transaction.notifications.save_group(group)
        return 1

    def _write_deliveries(
        self,
        group: NotificationGroup,
        members: Sequence[GroupedIncident],
        parts: Sequence[MessagePart],
    ) -> dict[UUID, UUID]:
        return write_deliveries(self._transaction, group, members, parts, self._now)

    def _save(self, groups: Sequence[PlannedGroup], delivery_ids: Mapping[UUID, UUID]) -> None:
        """Save notifications and groups after a flush, with the delivery of each incident."""
        rows = self._transaction.notifications
        rows.save_notifications(
            replace(update, delivery_id=delivery_ids[update.incident_id])
            if update.state is NotificationState.SENT and update.is_current
            else update
            for planned in groups
            for update in planned.plan.updates
        )
        rows.save_groups(
            replace(
                planned.group,
                due_at=planned.plan.due_at,
                told_at=self._now if planned.plan.incidents else planned.group.told_at,
                weight=unsent_weight(planned.members, planned.plan.updates),
            )
            for planned in groups
        )

    def _message_kind(self, planned: PlannedGroup) -> str:
        incidents = planned.plan.incidents
        if all(each.incident.rule in self._policy.health_rules for each in incidents):
            return HEALTH
        return FIRING if any(map(is_firing, incidents)) else RESOLVED


def write_deliveries(
    transaction: Transaction,
    group: NotificationGroup,
    members: Sequence[GroupedIncident],
    parts: Sequence[MessagePart],
    now: datetime,
) -> dict[UUID, UUID]:
    """Write the parts of a group's message as deliveries; return the delivery of each incident.

    `group.number` is that of this message. Each delivery gets its `webhook-id` here.
    """
    by_id = {str(member.incident.id): member for member in members}
    new = [_build_delivery(group, each, by_id, now) for each in parts]
    transaction.deliveries.add_all(new)
    transaction.pending_work.add(PendingWork.DELIVER)
    return {id: each.delivery.id for each in new for id in each.incidents}


def _build_delivery(
    group: NotificationGroup, part: MessagePart, by_id: Mapping[str, GroupedIncident], now: datetime
) -> NewDelivery:
    members = [by_id[id] for id in part.incidents]
    delivery = Delivery(
        id=uuid4(),
        group_id=group.id,
        number=group.number,
        receiver=group.receiver,
        state=DeliveryState.WAITING,
        attempts=0,
        next_at=now,
        part=part.number,
        parts=part.parts,
        priority=URGENT if any(map(_is_critical, members)) else ORDINARY,
    )
    revisions = {member.incident.id: member.notification.revision for member in members}
    return NewDelivery(delivery=delivery, body=part.body, incidents=revisions)


def _is_critical(member: GroupedIncident) -> bool:
    heavy = due_groups.severity_weight(member.incident.severity) == due_groups.CRITICAL_WEIGHT
    return heavy and is_new(member) and member.notification.kind is ChangeKind.OPENED

"""What one receiver is told in one look: its groups that are due, its tokens, its digests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from alerts.digest import WORST, Digest, Look, digest_of, in_turn, page_of
from alerts.messages import (
    FIRING,
    HEALTH,
    INCIDENTS_DIGEST,
    RESOLVED,
    Part,
    digest_entry,
    write_message,
)
from alerts.routing import Routing, borrows_at, fires, is_new, left_over, plan
from alerts.silences import Mutes
from alerts.tickets import PLAIN, Describer
from storage import due
from storage.deliveries import NewDelivery
from storage.ledger import Ledger, Work
from storage.records import Delivery, DeliveryState
from storage.routing import DIGEST, Group, Member, News, NoticeState

DIGEST_INTERVAL = timedelta(minutes=1)
"""The least time between two digests of a receiver."""
URGENT, ORDINARY = 0, 1
"""Priorities of deliveries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A receiver gets nothing from `since` until `until`, and nothing critical until `critical`."""

    since: datetime
    until: datetime
    critical: datetime


class Dispatch:
    """Write, in one transaction, what a receiver is told now; `hold` says why not more.

    With `critical`, only critical incidents are told, by a token that is borrowed where there is
    none: one message, so that where several groups are due it is a digest.
    """

    def __init__(
        self,
        ledger: Ledger,
        routing: Routing,
        receiver: str,
        now: datetime,
        *,
        mutes: Mutes,
        describer: Describer = PLAIN,
        critical: bool = False,
    ) -> None:
        self._ledger = ledger
        self._routing = routing
        self._route = routing.route(receiver)
        self._receiver = receiver
        self._is_pager = receiver in routing.pagers
        self._now = now
        self._mutes = mutes
        self._describer = describer
        self._critical = critical
        self.hold: Hold | None = None

    def run(self) -> int:
        """Look at the groups that are due; return how many messages were written."""
        if not self._has_token():
            return 0
        least = due.CRITICAL if self._critical else 0
        groups = due.due_groups(self._ledger.connection, self._receiver, self._now, least)
        digests = [group for group in groups if DIGEST in group.labels]
        looks = self._looks([group for group in groups if DIGEST not in group.labels])
        self._keep([look for look in looks if not look.plan.message], {})
        speaking = [look for look in looks if look.plan.message]
        written = self._speak(in_turn(speaking, self._served())) if speaking else 0
        return written + sum(self._end_digests(group.id) for group in digests)

    def _looks(self, groups: Sequence[Group]) -> list[Look]:
        members = self._ledger.routing.members(groups)
        found = []
        for group in groups:
            incidents = [each.incident for each in members[group.id]]
            muted = self._mutes.among(incidents, self._now)
            planned = plan(group, members[group.id], muted, self._route, self._now)
            found.append(Look(group=group, members=tuple(members[group.id]), plan=planned))
        return found

    def _served(self) -> Mapping[str, datetime]:
        return due.served(self._ledger.connection, self._receiver)

    def _speak(self, looks: Sequence[Look]) -> int:
        """Write messages as long as there are tokens, or one digest where groups are many."""
        if len(looks) > (1 if self._critical else self._route.digest_after):
            return self._digest(looks)
        for written, look in enumerate(looks):
            if not self._take_token():
                return written
            self._tell(look)
        return len(looks)

    def _has_token(self) -> bool:
        """Return whether a message may be written; where not, the receiver is held."""
        rate = self._route.rate_limit
        if rate is None:
            return True
        bucket = rate.after(self._ledger.routing.bucket(self._receiver), self._now)
        later, critical = rate.due(bucket), borrows_at(bucket, self._now)
        if later <= self._now or (self._critical and critical <= self._now):
            return True
        self.hold = Hold(since=self._now, until=later, critical=critical)
        return False

    def _take_token(self) -> bool:
        """Take a token, or borrow one; return whether there was one."""
        rate = self._route.rate_limit
        if rate is None:
            return True
        if not self._has_token():
            return False
        rows = self._ledger.routing
        bucket = rate.after(rows.bucket(self._receiver), self._now)
        if rate.due(bucket) <= self._now:
            bucket = replace(bucket, tokens=bucket.tokens - 1.0)
        else:
            bucket = rate.borrow(bucket, self._now)
        rows.put_bucket(self._receiver, bucket)
        return True

    def _tell(self, look: Look) -> None:
        group = replace(look.group, number=look.group.number + 1)
        incidents = [each.incident for each in look.plan.message]
        fields = self._describer.fields_of(self._ledger, incidents)
        parts = write_message(
            self._kind(look), group, fields, self._now, origin=self._describer.origin
        )
        told = self._post(group, look.plan.message, parts)
        self._keep([replace(look, group=group)], told)

    def _digest(self, looks: Sequence[Look]) -> int:
        rows = self._ledger.routing
        group = rows.group(rows.ensure_digest(self._receiver))
        last = group.told_at and min(group.told_at, self._now)
        if not self._critical and last and last + DIGEST_INTERVAL > self._now:
            later = last + DIGEST_INTERVAL
            self.hold = Hold(since=self._now, until=later, critical=later)
            return 0
        if not self._take_token():
            return 0
        digest = page_of(looks) if self._is_pager else digest_of(looks)
        goes_on = self._is_pager and (digest.left_out or group.due_at)
        group = replace(
            group,
            number=group.number + 1,
            told_at=self._now,
            due_at=self._now + DIGEST_INTERVAL if goes_on else None,
        )
        told = self._post(group, digest.members, self._parts(group, digest))
        self._keep(digest.looks, told)
        rows.put(group)
        return 1

    def _parts(self, group: Group, digest: Digest) -> list[Part]:
        worst = [each.incident for each in digest.members[:WORST]]
        rest = [digest_entry(each.incident) for each in digest.members[WORST:]]
        fields = [*self._describer.fields_of(self._ledger, worst), *rest]
        more = digest.left_out if self._is_pager else None
        origin = self._describer.origin
        return write_message(INCIDENTS_DIGEST, group, fields, self._now, more=more, origin=origin)

    def _end_digests(self, id: UUID) -> int:
        """End a pager's alert for what waited, once nothing does; takes no token."""
        connection, group = self._ledger.connection, self._ledger.routing.group(id)
        if group.due_at is None or group.due_at > self._now:
            return 0
        if due.anything_waits(connection, self._receiver) or self._ledger.deliveries.waits(
            group.id
        ):
            self._ledger.routing.put(replace(group, due_at=self._now + DIGEST_INTERVAL))
            return 0
        group = replace(group, number=group.number + 1, due_at=None)
        origin = self._describer.origin
        parts = write_message(INCIDENTS_DIGEST, group, [], self._now, more=0, origin=origin)
        self._post(group, (), parts)
        self._ledger.routing.put(group)
        return 1

    def _post(
        self, group: Group, members: Sequence[Member], parts: Sequence[Part]
    ) -> dict[UUID, UUID]:
        return post(self._ledger, group, members, parts, self._now)

    def _keep(self, looks: Sequence[Look], told: Mapping[UUID, UUID]) -> None:
        """Write the notices and groups after a look; `told` are the deliveries of incidents."""
        rows = self._ledger.routing
        rows.mark(
            replace(mark, delivery_id=told[mark.incident_id])
            if mark.state is NoticeState.TOLD and mark.is_current
            else mark
            for look in looks
            for mark in look.plan.marks
        )
        rows.put_all(
            replace(
                look.group,
                due_at=look.plan.due_at,
                told_at=self._now if look.plan.message else look.group.told_at,
                weight=left_over(look.members, look.plan.marks),
            )
            for look in looks
        )

    def _kind(self, look: Look) -> str:
        message = look.plan.message
        if all(each.incident.rule in self._routing.health for each in message):
            return HEALTH
        return FIRING if any(map(fires, message)) else RESOLVED


def post(
    ledger: Ledger,
    group: Group,
    members: Sequence[Member],
    parts: Sequence[Part],
    now: datetime,
) -> dict[UUID, UUID]:
    """Write the parts of a group's message as deliveries; return the delivery of each incident.

    `group` counts the message already. Each delivery gets its `webhook-id` here.
    """
    known = {str(member.incident.id): member for member in members}
    new = [_delivery(group, part, [known[id] for id in part.incidents], now) for part in parts]
    ledger.deliveries.add_all(new)
    ledger.leaves.add(Work.POST)
    return {id: each.delivery.id for each in new for id in each.incidents}


def _delivery(group: Group, part: Part, held: Sequence[Member], now: datetime) -> NewDelivery:
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
        priority=URGENT if any(map(_is_critical, held)) else ORDINARY,
    )
    revisions = {member.incident.id: member.notice.revision for member in held}
    return NewDelivery(delivery=delivery, body=part.body, incidents=revisions)


def _is_critical(member: Member) -> bool:
    heavy = due.weight_of(member.incident.severity) == due.CRITICAL
    return heavy and is_new(member) and member.notice.kind is News.OPENED

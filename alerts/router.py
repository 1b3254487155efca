"""The router: looks at the groups that are due, and writes what goes to whom.

All that a look at a group changes is one transaction: the delivery, what became of the notices,
and when the group is due again. A crash at any instant leaves all of it or nothing, and what was
not written is due still.
"""

from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from threading import Event
from uuid import UUID

import structlog

from alerts.heartbeat import Heartbeat
from alerts.messages import FIRING, HEALTH, HEARTBEAT, RESOLVED, write_message
from alerts.pulse import Pulse
from alerts.routing import Plan, Routing, first_due, message_id, plan
from alerts.silences import Mutes, silence_of
from alerts.tickets import PLAIN, FieldsOf, Origin
from storage import silences
from storage.errors import StorageBlocked
from storage.incidents import IncidentStore
from storage.ledger import Ledger
from storage.records import Delivery, DeliveryState
from storage.routing import Group, News, due_groups, group_of

_POLL_SECONDS = 0.2
_BLOCKED_SECONDS = 1.0


class _Look(Enum):
    """What came of looking at a group; `HELD`: its receiver may be told nothing more for now."""

    NOTHING = 0
    WROTE = 1
    HELD = 2


_say = structlog.get_logger("alerts.router")


class Router:
    """Tell receivers what they are to hear of, group by group; nothing is sent here."""

    def __init__(
        self,
        store: IncidentStore,
        routing: Routing,
        heartbeat: Heartbeat | None = None,
        pulse: Pulse | None = None,
        *,
        fields_of: FieldsOf = PLAIN.fields_of,
        origin: Origin = PLAIN.origin,
    ) -> None:
        self._fields_of = fields_of
        self._origin = origin
        self._store = store
        self._routing = routing
        self._heartbeat = heartbeat
        self._pulse = pulse
        self._beat_at: datetime | None = None
        self._sources = frozenset[str]().union(*(each.source for each in routing.inhibit))

    def run(self, stop: Event) -> None:
        """Route until stopped; waits out blocked storage; any other error stops all, is raised."""
        blocked = False
        while not stop.is_set():
            try:
                self.run_once(datetime.now(UTC))
                blocked = False
            except StorageBlocked as error:
                if not blocked:
                    _say.error(str(error))
                blocked = True
            except BaseException:
                stop.set()
                raise
            stop.wait(_BLOCKED_SECONDS if blocked else _POLL_SECONDS)

    def run_once(self, now: datetime) -> int:
        """Look at the groups that are due, and beat; return how many messages were written."""
        written, held = 0, set[str]()
        for group in map(group_of, self._store.rows(due_groups(now))):
            if group.receiver in held:
                continue
            with self._store.transaction() as ledger:
                look = self._look(ledger, group.id, now)
            written += look is _Look.WROTE
            if look is _Look.HELD:
                held.add(group.receiver)
        return written + self._beat(now)

    def _look(self, ledger: Ledger, id: UUID, now: datetime) -> "_Look":
        """Take a group as far as it has come due."""
        group, members = ledger.routing.group(id), ledger.routing.members(id)
        route = self._routing.route(group.receiver)
        if group.due_at is None:
            group = replace(group, due_at=first_due(members, route, now))
        if group.due_at is None or group.due_at > now:
            ledger.routing.put(group)
            return _Look.NOTHING
        muted = self._mutes(ledger, now).among((each.incident for each in members), now)
        planned = plan(group, members, muted, route, now)
        if planned.message and (later := self._take(ledger, group.receiver, now)):
            ledger.routing.put(replace(group, due_at=later))
            return _Look.HELD
        self._write(ledger, group, planned, now)
        return _Look.WROTE if planned.message else _Look.NOTHING

    def _mutes(self, ledger: Ledger, now: datetime) -> Mutes:
        return Mutes(
            silences=[silence_of(row) for row in silences.active(ledger.connection, now)],
            maintenance=self._routing.maintenance,
            inhibit=self._routing.inhibit,
            firing=ledger.routing.firing(self._sources),
        )

    def _take(self, ledger: Ledger, receiver: str, now: datetime) -> datetime | None:
        """Take a token of a receiver; where there is none, return when there will be."""
        rate = self._routing.route(receiver).rate_limit
        if rate is None:
            return None
        bucket = rate.after(ledger.routing.bucket(receiver), now)
        later = rate.due(bucket)
        if later > now:
            return later
        ledger.routing.put_bucket(receiver, replace(bucket, tokens=bucket.tokens - 1.0))
        return None

    def _write(self, ledger: Ledger, group: Group, planned: Plan, now: datetime) -> None:
        group = replace(group, due_at=planned.due_at)
        delivery = None
        if planned.message:
            told = self._fields_of(ledger, [each.incident for each in planned.message])
            body = write_message(self._kind(planned), group, told, now, self._origin)
            revisions = {each.incident.id: each.notice.revision for each in planned.message}
            group, delivery = self._post(ledger, group, body, revisions, now)
        ledger.routing.mark(
            replace(each, delivery_id=delivery)
            if each.state == "told" and each.is_current
            else each
            for each in planned.marks
        )
        ledger.routing.put(group)

    def _post(
        self,
        ledger: Ledger,
        group: Group,
        body: bytes,
        revisions: dict[UUID, int],
        now: datetime,
    ) -> tuple[Group, UUID]:
        """Write the next message of a group; return the group after it, and the message's id."""
        number = group.number + 1
        delivery = Delivery(
            id=message_id(group, number),
            group_id=group.id,
            number=number,
            receiver=group.receiver,
            state=DeliveryState.WAITING,
            attempts=0,
            next_at=now,
        )
        ledger.deliveries.add(delivery, body, revisions)
        return replace(group, number=number, told_at=now), delivery.id

    def _kind(self, planned: Plan) -> str:
        if all(each.incident.rule in self._routing.health for each in planned.message):
            return HEALTH
        fires = any(each.notice.kind is not News.RESOLVED for each in planned.message)
        return FIRING if fires else RESOLVED

    def _beat(self, now: datetime) -> int:
        """Write the heartbeats that are due, while what there is to read is being read."""
        if self._heartbeat is None or not self._heartbeat.due(self._beat_at, now):
            return 0
        if self._pulse is None or not self._pulse.beats():
            return 0
        beats = [self._beat_for(self._heartbeat, each, now) for each in self._heartbeat.notify]
        self._beat_at = now
        return sum(beats)

    def _beat_for(self, heartbeat: Heartbeat, receiver: str, now: datetime) -> int:
        with self._store.transaction() as ledger:
            id = ledger.routing.ensure(receiver, {HEARTBEAT: "longwatch"})
            group = ledger.routing.group(id)
            if not heartbeat.due(group.told_at, now):
                return 0
            body = write_message(HEARTBEAT, group, [], now, self._origin)
            group, _ = self._post(ledger, group, body, {}, now)
            ledger.deliveries.forget_ended(id, group.number)
            ledger.routing.put(group)
        return 1

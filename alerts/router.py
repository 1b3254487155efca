"""The router: looks at the groups that are due, and writes what goes to whom.

All that one look at a receiver changes is one transaction: the deliveries, the notices that they
tell, and when its groups are due again. A crash at any instant leaves all of it or nothing, and
what was not written is due still.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from threading import Event

import structlog

from alerts.dispatch import Dispatch, Hold, post
from alerts.heartbeat import Heartbeat
from alerts.loop import repeat, wait_for
from alerts.messages import HEARTBEAT, write_message
from alerts.pulse import Pulse
from alerts.routing import Routing, first_due
from alerts.silences import Mutes, silence_of
from alerts.tickets import PLAIN, Describer
from storage import due, silences
from storage.incidents import IncidentStore
from storage.ledger import Ledger, Work

_POLL_SECONDS = 1.0
"""How often to look for what other processes have changed."""

_say = structlog.get_logger("alerts.router")


class Router:
    """Tell receivers what they are to hear of, group by group; nothing is sent here.

    A receiver without a token is not looked at, but for critical incidents that wait.
    """

    def __init__(
        self,
        store: IncidentStore,
        routing: Routing,
        heartbeat: Heartbeat | None = None,
        pulse: Pulse | None = None,
        describer: Describer = PLAIN,
    ) -> None:
        self._store = store
        self._routing = routing
        self._heartbeat = heartbeat
        self._pulse = pulse
        self._describer = describer
        self._holds: dict[str, Hold] = {}
        self._looked_at: datetime | None = None
        self._beat_at: datetime | None = None
        self._sources = frozenset[str]().union(*(each.source for each in routing.inhibit))

    def run(self, stop: Event) -> None:
        """Route until stopped; waits out blocked storage; any other error stops all, is raised."""
        repeat(
            lambda: self.run_once(datetime.now(UTC)),
            stop,
            _say,
            seconds=_POLL_SECONDS,
            wait=self._wait,
        )

    def run_once(self, now: datetime) -> int:
        """Look at the groups that are due, and beat; return how many messages were written."""
        self._looked_at = now
        self._receive(now)
        self._take_back(now)
        self._holds = {name: hold for name, hold in self._holds.items() if _holds(hold, now)}
        names = self._store.rows(due.due_receivers(now, self._holds))
        written = sum(self._dispatch(row.receiver, now) for row in names)
        pressing = [name for name, hold in self._holds.items() if hold.critical <= now]
        if pressing:
            rows = self._store.rows(due.critical_receivers(now, pressing))
            written += sum(self._dispatch(row.receiver, now, critical=True) for row in rows)
        return written + self._beat(now)

    def _wait(self, stop: Event, seconds: float) -> None:
        """Return when a commit of this process makes news, or at the next instant that is due."""
        now = datetime.now(UTC)
        left = min((at - now for at in self._next(self._looked_at or now)), default=None)
        if left is not None:
            seconds = min(seconds, left.total_seconds())
        wait_for(self._store.work[Work.ROUTE], stop, seconds)

    def _next(self, looked_at: datetime) -> Iterator[datetime]:
        """Yield when groups come due and holds end that did not when they were looked at."""
        for hold in self._holds.values():
            yield from (at for at in (hold.until, hold.critical) if at > looked_at)
        yield from (row.due_at for row in self._store.rows(due.next_due(looked_at)) if row.due_at)

    def _receive(self, now: datetime) -> None:
        """Let groups with something new come due."""
        while self._store.rows(due.has_arrivals()):
            with self._store.transaction() as ledger:
                found = due.arrivals(ledger.connection)
                ledger.routing.put_all(
                    replace(
                        each.group,
                        due_at=first_due(each, self._routing.route(each.group.receiver), now),
                    )
                    for each in found
                )
                ledger.routing.seen(each.group for each in found)

    def _take_back(self, now: datetime) -> None:
        """Let groups come due that a clock wrote which was ahead: they would wait for too long."""
        latest = now + self._routing.longest_wait
        if self._store.rows(due.has_later(latest)):
            with self._store.transaction() as ledger:
                due.take_back(ledger.connection, latest, now)

    def _dispatch(self, receiver: str, now: datetime, *, critical: bool = False) -> int:
        with self._store.transaction() as ledger:
            mutes = self._mutes(ledger, now)
            dispatch = Dispatch(
                ledger,
                self._routing,
                receiver,
                now,
                mutes=mutes,
                describer=self._describer,
                critical=critical,
            )
            written = dispatch.run()
        if dispatch.hold is not None:
            self._holds[receiver] = dispatch.hold
        return written

    def _mutes(self, ledger: Ledger, now: datetime) -> Mutes:
        return Mutes(
            silences=[silence_of(row) for row in silences.active(ledger.connection, now)],
            maintenance=self._routing.maintenance,
            inhibit=self._routing.inhibit,
            firing=ledger.routing.firing(self._sources),
        )

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
            group = replace(group, number=group.number + 1, told_at=now)
            parts = write_message(HEARTBEAT, group, [], now, origin=self._describer.origin)
            post(ledger, group, (), parts, now)
            ledger.deliveries.forget_ended(id, group.number)
            ledger.routing.put(group)
        return 1


def _holds(hold: Hold, now: datetime) -> bool:
    """Return whether a hold lasts; it ends where the clock was set back."""
    return hold.since <= now < hold.until

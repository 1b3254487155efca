"""Incidents that no sample closes: the clock does, or the end of their rule."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from alerts.incidents.changes import IncidentChange
from alerts.incidents.judge import Judge, publish_and_log
from alerts.rules.lifecycle import retire, sweep, without_future_instants
from alerts.rules.replay import overdue_revisions
from storage.clock import CurrentTime
from storage.db.alert_store import AlertStore
from storage.records.records import LIVE_STATES, Incident

_ORPHANED_AFTER = timedelta(minutes=1)
"""An incident that no rule judges is retired when no sample has updated it for this long."""


class Sweeper:
    """Close live incidents that had no sample for `sweep_after` beyond the timeout of their rule.

    A dark camera keeps no incident open for ever.
    """

    def __init__(self, store: AlertStore, judge: Judge, sweep_after: timedelta) -> None:
        self._store = store
        self._judge = judge
        self._sweep_after = sweep_after

    def retire_orphans(self) -> int:
        """Close incidents whose rule or camera was changed or removed; return how many."""
        return self._revise_live(self._orphan_changes)

    def run_once(self, now: datetime, present: CurrentTime) -> int:
        """Apply what time alone changes by `now`; return how many incidents changed.

        Instants that are not plausible in `present` are corrected first.
        """
        return self._revise_live(lambda incident: self._changes_by_time(incident, now, present))

    def _orphan_changes(self, incident: Incident) -> Iterator[IncidentChange]:
        if incident.is_live and not self._judge.is_judged(incident):
            yield IncidentChange(before=incident, after=retire(incident), who="retired")

    def _changes_by_time(
        self, incident: Incident, now: datetime, present: CurrentTime
    ) -> Iterator[IncidentChange]:
        rule = self._judge.find_rule(incident)
        if not incident.is_live:
            return
        if rule is None or not self._judge.is_judged(incident):
            # An older release that ignores the lease may run beside this one and judge it still.
            if not now - _ORPHANED_AFTER < incident.last_seen_at <= now:
                yield from self._orphan_changes(incident)
            return
        stored, incident = incident, without_future_instants(incident, now, present) or incident
        if incident is not stored:
            yield self._judge.build_change(stored, incident, rule, who="clock")
        reported_until = now - self._sweep_after
        for after in overdue_revisions(rule, incident, reported_until):
            yield self._judge.build_change(incident, after, rule)
            incident = after
        if incident.is_live and incident.last_seen_at < reported_until - rule.incident_timeout:
            yield self._judge.build_change(incident, sweep(incident, now), rule, who="clock")

    def _revise_live(self, step: Callable[[Incident], Iterable[IncidentChange]]) -> int:
        """Publish the changes of each live incident in a transaction that reads it again."""
        due = [each.id for each in self._store.incidents(LIVE_STATES) if any(step(each))]
        for id in due:
            with self._store.transaction() as transaction:
                incident = transaction.find_incident(id)
                publish_and_log(transaction, list(step(incident)) if incident else [])
        return len(due)

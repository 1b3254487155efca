"""Deletion of old records, so that years do not fill the disk.

A run deletes in small transactions until nothing is due or its time is over. After each it waits
three times as long as the transaction took, so that others get the lock. Coverage is kept, and so
are the findings behind an incident until it is deleted. A deletion is not written to the topic
`incidents`, which has its own retention.
"""

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from shutil import rmtree
from threading import Event
from typing import Annotated

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from alerts.incidents.changes import IncidentChange, publish
from alerts.rules.lifecycle import note
from storage.db.alert_store import AlertStore
from storage.db.retention import ExpiredRows
from storage.db.transaction import Transaction
from storage.records.records import Incident, IncidentState
from storage.settings import Duration

WHO = "retention"
FINDINGS_AT_ONCE, INCIDENTS_AT_ONCE, DELIVERIES_AT_ONCE = 250, 25, 50
STILLS_AT_ONCE = 20
GROUPS_AT_ONCE, SILENCES_AT_ONCE = 1000, 500
MAX_RUN_SECONDS = 50.0
"""How long one run may take; the next begins a minute after this one began."""
_MIN_PAUSE, _PAUSE_FACTOR = 0.01, 3.0

logger = structlog.get_logger()

DeleteStep = Callable[[datetime], int]
"""Delete a batch of rows due at an instant; return how many, 0 if none is due."""


RetentionPeriod = Annotated[Duration, Field(ge=timedelta(days=1))]


class RetentionPeriods(BaseModel):
    """How long ended records are kept, counted from their end.

    `incidents` are those that opened, with their audit trail, notifications and stills;
    `dismissed` never opened. `deliveries` include their bodies. Only findings may be kept for
    longer than `incidents`; a period that is not set and would be longer counts as that.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    incidents: RetentionPeriod = timedelta(days=400)
    deliveries: RetentionPeriod = timedelta(days=90)
    dismissed: RetentionPeriod = timedelta(days=7)
    findings: RetentionPeriod = timedelta(days=90)
    stills: RetentionPeriod = timedelta(days=90)

    @field_validator("deliveries", "dismissed", "stills")
    @classmethod
    def _check_not_longer_than_incidents(cls, period: timedelta, info: ValidationInfo) -> timedelta:
        longest = info.data.get("incidents")
        if longest is not None and period > longest:
            raise ValueError("longer than retention.incidents: shorten it, or lengthen that")
        return period


class RetentionJob:
    """Delete what is older than its period; safe to kill at any instant, ends at `stop`."""

    def __init__(
        self,
        store: AlertStore,
        folder: Path,
        periods: RetentionPeriods,
        stop: Event,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._folder = folder
        self._periods = periods
        self._stop = stop
        self._clock = clock
        self._old_rows = ExpiredRows(store)
        self._last_group = ""
        self._steps: dict[str, DeleteStep] = {
            "dismissed": self._delete_dismissed,
            "incidents": self._delete_resolved,
            "stills": self._delete_stills,
            "deliveries": self._delete_deliveries,
            "findings": self._delete_findings,
            "groups": self._delete_groups,
            "silences": self._delete_silences,
        }

    def run_once(self, now: datetime) -> int:
        """Delete batches of each kind by turns, for MAX_RUN_SECONDS; return how many rows."""
        end, deleted = self._clock() + MAX_RUN_SECONDS, Counter[str]()
        due = list(self._steps)
        while due and not self._stop.is_set() and self._clock() < end:
            counts = {name: self._run_step(self._steps[name], now) for name in due}
            deleted.update(counts)
            due = [name for name in due if counts[name]]
        if deleted.total():
            logger.info(
                "old rows deleted", **{name: deleted[name] for name in deleted if deleted[name]}
            )
        return deleted.total()

    def _run_step(self, step: DeleteStep, now: datetime) -> int:
        started = self._clock()
        count = step(now)
        if count:
            self._stop.wait(max(_MIN_PAUSE, _PAUSE_FACTOR * (self._clock() - started)))
        return count

    def _delete_stills(self, now: datetime) -> int:
        """Remove the files first: a row may name a file that is gone, never the reverse."""
        old = self._store.closed_with_stills(now - self._periods.stills, STILLS_AT_ONCE)
        due = [each for each in old if self._remove_files(str(each.id))]
        if due:
            with self._store.transaction() as transaction:
                publish(
                    transaction,
                    [self._record_stills_deleted(transaction, each, now) for each in due],
                )
        return len(due)

    def _record_stills_deleted(
        self, transaction: Transaction, incident: Incident, now: datetime
    ) -> IncidentChange:
        reason = f"forgotten after {self._periods.stills.days} days"
        transaction.evidence.record_removed(incident.id, reason, now)
        before = transaction.incident(incident.id)
        after = note(before, WHO, now)
        return IncidentChange(before=before, after=after, who=WHO, note="stills forgotten")

    def _delete_dismissed(self, now: datetime) -> int:
        return self._delete_incidents(IncidentState.DISMISSED, now - self._periods.dismissed)

    def _delete_resolved(self, now: datetime) -> int:
        return self._delete_incidents(IncidentState.RESOLVED, now - self._periods.incidents)

    def _delete_incidents(self, state: IncidentState, before: datetime) -> int:
        """Remove the files first: no row names them once the incident is deleted."""
        ids = self._old_rows.expired_incidents(state, before, INCIDENTS_AT_ONCE)
        return self._old_rows.delete_incidents([id for id in ids if self._remove_files(id)])

    def _delete_deliveries(self, now: datetime) -> int:
        period = min(self._periods.deliveries, self._periods.incidents)
        return self._old_rows.delete_deliveries(now - period, DELIVERIES_AT_ONCE)

    def _delete_findings(self, now: datetime) -> int:
        return self._old_rows.delete_findings(now - self._periods.findings, FINDINGS_AT_ONCE)

    def _delete_groups(self, now: datetime) -> int:
        """Check the next groups; after the last, the first again."""
        groups = self._old_rows.groups_after(self._last_group, GROUPS_AT_ONCE)
        self._last_group = groups[-1].id if len(groups) == GROUPS_AT_ONCE else ""
        return self._old_rows.delete_groups([each.id for each in groups if not each.is_used])

    def _delete_silences(self, now: datetime) -> int:
        return self._old_rows.delete_silences(now - self._periods.incidents, SILENCES_AT_ONCE)

    def _remove_files(self, id: str) -> bool:
        """Remove the stills of an incident; return whether they are gone."""
        folder = self._folder / id
        try:
            rmtree(folder)
        except FileNotFoundError:
            return True
        except OSError as error:
            logger.error("stills not removed", incident=id, reason=error.strerror)
            return False
        return True

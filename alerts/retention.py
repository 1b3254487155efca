"""What is deleted once it is old enough, so that years do not fill the disk.

Deleting goes on until nothing is due or the time for it is over, in small transactions. Between
two of them it waits for three times as long as the last one took, so that others get the lock.
Coverage stays, and so do the findings behind an incident for as long as it is kept. The topic
`incidents` hears nothing of a deletion: it forgets by itself.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from shutil import rmtree
from threading import Event

import structlog

from alerts.incidents import note
from alerts.publish import Change, publish
from storage.forgetting import OldRows
from storage.incidents import IncidentStore
from storage.ledger import Ledger
from storage.records import Incident, IncidentState

WHO = "retention"
FINDINGS_AT_ONCE, INCIDENTS_AT_ONCE, DELIVERIES_AT_ONCE = 250, 25, 50
STILLS_AT_ONCE = 20
GROUPS_AT_ONCE, SILENCES_AT_ONCE = 1000, 500
SECONDS = 50.0
"""How long one run may take; the next begins a minute after this one began."""
_LEAST_PAUSE, _PAUSE_SHARE = 0.01, 3.0

logger = structlog.get_logger("alerts.retention")

Step = Callable[[datetime], int]
"""Delete a batch of what is due at an instant; return how many rows, 0 where nothing is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepFor:
    """How long what is over is kept, counted from its end."""

    incidents: timedelta
    deliveries: timedelta
    dismissed: timedelta
    findings: timedelta
    stills: timedelta


class Retention:
    """Delete what is older than is kept; safe to kill at any instant, and ends at `stop`."""

    def __init__(
        self,
        store: IncidentStore,
        folder: Path,
        keep: KeepFor,
        stop: Event,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._folder = folder
        self._keep = keep
        self._stop = stop
        self._clock = clock
        self._old = OldRows(store)
        self._last_group = ""
        self._steps: dict[str, Step] = {
            "dismissed": self._forget_dismissed,
            "incidents": self._forget_resolved,
            "stills": self._forget_stills,
            "deliveries": self._forget_deliveries,
            "findings": self._forget_findings,
            "groups": self._forget_groups,
            "silences": self._forget_silences,
        }

    def run_once(self, now: datetime) -> int:
        """Delete what is due, batch by batch and by turns, for SECONDS; return how many rows."""
        end, gone = self._clock() + SECONDS, Counter[str]()
        due = list(self._steps)
        while due and not self._stop.is_set() and self._clock() < end:
            counts = {name: self._take(self._steps[name], now) for name in due}
            gone.update(counts)
            due = [name for name in due if counts[name]]
        if gone.total():
            logger.info("old rows deleted", **{name: gone[name] for name in gone if gone[name]})
        return gone.total()

    def _take(self, step: Step, now: datetime) -> int:
        started = self._clock()
        count = step(now)
        if count:
            self._stop.wait(max(_LEAST_PAUSE, _PAUSE_SHARE * (self._clock() - started)))
        return count

    def _forget_stills(self, now: datetime) -> int:
        """Remove the files first: what is written down as kept may be gone, never the reverse."""
        old = self._store.with_stills(now - self._keep.stills, STILLS_AT_ONCE)
        due = [each for each in old if self._remove_files(str(each.id))]
        if due:
            with self._store.transaction() as ledger:
                publish(ledger, [self._stills_gone(ledger, each, now) for each in due])
        return len(due)

    def _stills_gone(self, ledger: Ledger, incident: Incident, now: datetime) -> Change:
        why = f"forgotten after {self._keep.stills.days} days"
        ledger.evidence.remove(incident.id, why, now)
        before = ledger.incident(incident.id)
        after = note(before, WHO, now)
        return Change(before=before, after=after, who=WHO, note="stills forgotten")

    def _forget_dismissed(self, now: datetime) -> int:
        return self._forget_incidents(IncidentState.DISMISSED, now - self._keep.dismissed)

    def _forget_resolved(self, now: datetime) -> int:
        return self._forget_incidents(IncidentState.RESOLVED, now - self._keep.incidents)

    def _forget_incidents(self, state: IncidentState, before: datetime) -> int:
        """Remove the files first: once the rows are gone, nothing says whose they are."""
        ids = self._old.incidents(state, before, INCIDENTS_AT_ONCE)
        return self._old.delete_incidents([id for id in ids if self._remove_files(id)])

    def _forget_deliveries(self, now: datetime) -> int:
        kept = min(self._keep.deliveries, self._keep.incidents)
        return self._old.delete_deliveries(now - kept, DELIVERIES_AT_ONCE)

    def _forget_findings(self, now: datetime) -> int:
        return self._old.delete_findings(now - self._keep.findings, FINDINGS_AT_ONCE)

    def _forget_groups(self, now: datetime) -> int:
        """Look at the next groups, from the first again after the last."""
        groups = self._old.groups(self._last_group, GROUPS_AT_ONCE)
        self._last_group = groups[-1].id if len(groups) == GROUPS_AT_ONCE else ""
        return self._old.delete_groups([each.id for each in groups if not each.is_used])

    def _forget_silences(self, now: datetime) -> int:
        return self._old.delete_silences(now - self._keep.incidents, SILENCES_AT_ONCE)

    def _remove_files(self, id: str) -> bool:
        """Remove the stills of an incident; return whether none are there any more."""
        folder = self._folder / id
        try:
            rmtree(folder)
        except FileNotFoundError:
            return True
        except OSError as error:
            logger.error("stills not removed", incident=id, reason=error.strerror)
            return False
        return True

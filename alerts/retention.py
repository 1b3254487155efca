"""What is forgotten: findings and stills of long ago, so that months do not fill the disk.

Incidents, their trail and the ledger of coverage stay, and so do the findings behind an incident.
"""

from datetime import datetime, timedelta
from pathlib import Path
from shutil import rmtree

import structlog

from alerts.incidents import note
from alerts.publish import Change, publish
from storage.incidents import IncidentStore
from storage.log import Log

WHO = "retention"
AT_ONCE, FINDINGS_AT_ONCE = 20, 10_000

_say = structlog.get_logger("alerts.retention")


class Retention:
    """Forget what is older than is kept, a little at a time; safe to kill at any instant."""

    def __init__(
        self,
        log: Log,
        store: IncidentStore,
        folder: Path,
        *,
        stills: timedelta,
        findings: timedelta,
    ) -> None:
        self._log = log
        self._store = store
        self._folder = folder
        self._stills = stills
        self._findings = findings

    def run_once(self, now: datetime) -> int:
        """Forget some of what is due; return how many findings and incidents' stills it was."""
        with self._store.transaction() as ledger:
            gone = ledger.forget_findings(now - self._findings, FINDINGS_AT_ONCE)
        if gone:
            _say.info("findings forgotten", count=gone)
        return gone + self._forget_stills(now)

    def _forget_stills(self, now: datetime) -> int:
        """Remove the files first: what is written down as kept may be gone, never the reverse."""
        due = self._store.with_stills(now - self._stills, AT_ONCE)
        for incident in due:
            rmtree(self._folder / str(incident.id), ignore_errors=True)
            with self._store.transaction() as ledger:
                ledger.evidence.remove(
                    incident.id, f"forgotten after {self._stills.days} days", now
                )
                before = ledger.incident(incident.id)
                after = note(before, WHO, now)
                told = Change(before=before, after=after, who=WHO, note="stills forgotten")
                publish(ledger, self._log, [told])
        return len(due)

"""The stills behind an incident: those of the windows before, at and after its opening.

They are copied out of the log, which soon forgets them, into a folder of the incident, and
their digests become a note on its audit trail.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from uuid import UUID

import structlog

from alerts.incidents import note
from storage.errors import Unreadable
from storage.incidents import IncidentStore
from storage.log import WINDOWS, Log
from storage.records import Finding, Incident, Kept, Moment, Revision, Window
from storage.wire import decode_window

LATE = timedelta(minutes=2)
"""How much earlier or later than its own time a window may have come into the log."""
PATIENCE = timedelta(minutes=10)
"""How long the window after the opening is waited for."""
AT_ONCE = 20

_say = structlog.get_logger("alerts.evidence")


class EvidenceKeeper:
    """Keep the stills of incidents that have opened; safe to kill at any instant."""

    def __init__(self, log: Log, store: IncidentStore, folder: Path) -> None:
        self._log = log
        self._store = store
        self._folder = folder

    def run_once(self, now: datetime) -> int:
        """Look after incidents whose stills are not all settled; return how many now are."""
        return sum(self._keep(each, now) for each in self._store.without_evidence(AT_ONCE))

    def _keep(self, incident: Incident, now: datetime) -> bool:
        """Settle an incident; say whether it could be done now."""
        finding = self._store.opening_finding(incident)
        windows = {} if finding is None else around(self._log, finding)
        opened = incident.opened_at or incident.first_seen_at
        if finding is not None and Moment.AFTER not in windows and abs(now - opened) < PATIENCE:
            return False
        kept = [self._settle(incident.id, moment, windows.get(moment)) for moment in Moment]
        with self._store.transaction() as ledger:
            ledger.keep_evidence(incident.id, kept)
            told = ", ".join(f"{each.moment} {each.digest or each.missing}" for each in kept)
            after = note(ledger.incident(incident.id), "evidence", now)
            ledger.save([Revision(incident=after, who="evidence", note=f"stills: {told}")])
        return True

    def _settle(self, incident_id: UUID, moment: Moment, window: Window | None) -> Kept:
        if window is None:
            return Kept(moment=moment, missing="the log has no such window")
        folder = self._folder / str(incident_id) / moment
        try:
            write(folder, window)
        except OSError as error:
            _say.error("stills not kept", incident=str(incident_id), reason=error.strerror)
            return Kept(moment=moment, window_id=window.id, missing=f"{error.strerror}")
        return Kept(moment=moment, window_id=window.id, digest=digest_of(folder))


def around(log: Log, finding: Finding) -> dict[Moment, Window]:
    """Return the window of a finding, and the camera's windows before and after it."""
    found = dict[Moment, Window]()
    before: Window | None = None
    for window in _windows(log, finding):
        if window.id == finding.window_id:
            found[Moment.AT] = window
            if before is not None:
                found[Moment.BEFORE] = before
        elif Moment.AT in found:
            return found | {Moment.AFTER: window}
        before = window
    return found


def _windows(log: Log, finding: Finding) -> Iterator[Window]:
    """Yield a camera's windows from before a finding to well after it."""
    part = log.part_of(WINDOWS, finding.camera)
    position = appended_from(log, part, finding.start - 2 * (finding.end - finding.start) - LATE)
    while entries := log.read(part, position, limit=4, key=finding.camera):
        for entry in entries:
            if entry.at > finding.end + LATE + PATIENCE:
                return
            try:
                yield decode_window(entry.value)
            except Unreadable:
                continue  # the analyzer has set it aside
        position = entries[-1].position + 1


def appended_from(log: Log, part: str, at: datetime) -> int:
    """Return the position of the first entry that was appended at or after an instant."""
    low, high = log.oldest(part), log.next(part)
    while low < high:
        middle = (low + high) // 2
        entries = log.read(part, middle, limit=1)
        if entries and entries[0].at < at:
            low = middle + 1
        else:
            high = middle
    return low


def write(folder: Path, window: Window) -> None:
    """Write the stills of a window as JPEG files, named by their instants; all of them or none."""
    if folder.exists():
        return
    draft = folder.with_name(f".{folder.name}")
    rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for still in window.stills:
        (draft / f"{still.at:%Y%m%dT%H%M%S.%f}Z.jpg").write_bytes(still.jpeg)
    draft.rename(folder)


def digest_of(folder: Path) -> str:
    """Return the SHA-256 over the names and bytes of a folder's stills."""
    digest = sha256()
    for path in sorted(folder.glob("*.jpg")):
        digest.update(f"{path.name}\n".encode() + sha256(path.read_bytes()).digest())
    return digest.hexdigest()

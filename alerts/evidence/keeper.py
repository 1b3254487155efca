"""The stills behind an incident: those of the windows before, at and after its beginning.

The transaction that begins an incident requests them, so a kill loses none (see
`alerts.incidents.changes`). The log soon drops them, so a thread copies them into a folder of the
incident, and notes their digests on its audit trail. It removes the stills of dismissed incidents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from threading import Event
from uuid import UUID

import structlog

from alerts.incidents.changes import IncidentChange, publish
from alerts.intake.window_search import LocatedWindow, find_window, next_window
from alerts.rules.lifecycle import note
from storage.db.alert_store import AlertStore
from storage.db.transaction import PendingWork, Transaction
from storage.log.log import Log
from storage.loop import repeat, wait_for
from storage.records.records import EvidenceMoment, EvidenceStill, Finding, IncidentState, Window

NEXT_WINDOW_TIMEOUT = timedelta(minutes=10)
"""How long to wait for the window after the beginning of an incident."""
MAX_INCIDENTS_AT_ONCE = 20
"""The most incidents whose stills one transaction takes."""
WHO = "evidence"
NO_WINDOW, NO_FINDING = "the log has no such window", "no finding began it"
DISMISSED = "the incident was dismissed"

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class _AwaitedWindow:
    """The window after the beginning of an incident, at `offset` or later."""

    partition: str
    camera: str
    offset: int
    give_up_at: datetime

    def is_timely(self, now: datetime) -> bool:
        """Return whether to wait; a clock that was set back ends the wait."""
        return now < self.give_up_at <= now + NEXT_WINDOW_TIMEOUT


class EvidenceKeeper:
    """Copy the stills of new incidents; safe to kill at any instant."""

    def __init__(self, log: Log, store: AlertStore, folder: Path) -> None:
        self._log = log
        self._store = store
        self._folder = folder
        self._awaited: dict[UUID, _AwaitedWindow] = {}
        self._is_resumed = False

    def run(self, stop: Event) -> None:
        """Copy stills until stopped; waits out blocked storage, raises any other error."""
        repeat(
            lambda: self.run_once(datetime.now(UTC)),
            stop,
            logger,
            wait=partial(wait_for, self._store.pending_work[PendingWork.TAKE_STILLS]),
            eager=True,
        )

    def run_once(self, now: datetime) -> int:
        """Copy the stills of a few new incidents, and remove those of dismissed ones.

        Return how many incidents were handled.
        """
        unsettled = self._store.unsettled_evidence(EvidenceMoment.AT, MAX_INCIDENTS_AT_ONCE)
        for each in unsettled:  # before the log is read, which may block for long
            if each.state is IncidentState.DISMISSED:
                self._remove(each.id, now)
        if not self._is_resumed:
            self._resume(now)
        begun = [each for each in unsettled if each.state is not IncidentState.DISMISSED]
        findings = self._store.first_findings(begun)
        stills = {each.id: self._take_stills(each.id, findings.get(each.id), now) for each in begun}
        self._save(stills, now)
        return len(unsettled) + self._take_awaited(now)

    def _resume(self, now: datetime) -> None:
        """Wait for the windows that an earlier process waited for."""
        new = {each.id for each in self._store.unsettled_evidence(EvidenceMoment.AT)}
        after = self._store.unsettled_evidence(EvidenceMoment.AFTER)
        unfinished = [each for each in after if each.id not in new]
        for id, finding in self._store.first_findings(unfinished).items():
            located = find_window(self._log, finding)
            if located is None:
                self._save({id: [self._write(id, EvidenceMoment.AFTER, None)]}, now)
            else:
                self._await_next_window(id, finding, located, now)
        self._is_resumed = True

    def _take_stills(self, id: UUID, finding: Finding | None, now: datetime) -> list[EvidenceStill]:
        """Write the stills of a new incident whose windows are in the log."""
        located = None if finding is None else find_window(self._log, finding)
        if finding is None or located is None:
            reason = NO_FINDING if finding is None else NO_WINDOW
            return [EvidenceStill(moment=moment, missing=reason) for moment in EvidenceMoment]
        stills = [
            self._write(id, EvidenceMoment.BEFORE, located.previous),
            self._write(id, EvidenceMoment.AT, located.window),
        ]
        after = next_window(self._log, located.partition, located.next_offset, finding.camera)
        if after is None:
            self._await_next_window(id, finding, located, now)
            return stills
        return [*stills, self._write(id, EvidenceMoment.AFTER, after)]

    def _await_next_window(
        self, id: UUID, finding: Finding, located: LocatedWindow, now: datetime
    ) -> None:
        self._awaited[id] = _AwaitedWindow(
            partition=located.partition,
            camera=finding.camera,
            offset=located.next_offset,
            give_up_at=now + NEXT_WINDOW_TIMEOUT,
        )

    def _take_awaited(self, now: datetime) -> int:
        """Write the stills of awaited windows; return how many incidents had one."""
        partitions = {each.partition for each in self._awaited.values()}
        end_offsets = {name: self._log.end_offset(name) for name in partitions}
        stills = dict[UUID, list[EvidenceStill]]()
        for id, each in list(self._awaited.items()):
            if len(stills) == MAX_INCIDENTS_AT_ONCE:
                break
            end = end_offsets[each.partition]
            if each.offset >= end and each.is_timely(now):
                continue
            window = self._find_awaited(each, end)
            if window is None and now < each.give_up_at:
                # Our clock may have been set back.
                give_up_at = min(each.give_up_at, now + NEXT_WINDOW_TIMEOUT)
                offset = max(each.offset, end)
                self._awaited[id] = replace(each, offset=offset, give_up_at=give_up_at)
            else:
                stills[id] = [self._write(id, EvidenceMoment.AFTER, window)]
        self._save(stills, now)
        for id in stills:
            del self._awaited[id]
        return len(stills)

    def _find_awaited(self, awaited: _AwaitedWindow, end: int) -> Window | None:
        if awaited.offset >= end:
            return None
        return next_window(self._log, awaited.partition, awaited.offset, awaited.camera)

    def _save(self, stills: Mapping[UUID, Sequence[EvidenceStill]], now: datetime) -> None:
        """Record stills, and note them on the audit trail of each incident."""
        if not stills:
            return
        with self._store.transaction() as transaction:
            notes = (_settle(transaction, id, each, now) for id, each in stills.items())
            publish(transaction, [change for change in notes if change is not None])

    def _write(self, id: UUID, moment: EvidenceMoment, window: Window | None) -> EvidenceStill:
        if window is None:
            return EvidenceStill(moment=moment, missing=NO_WINDOW)
        folder = self._folder / str(id) / moment
        try:
            write_stills(folder, window)
        except OSError as error:
            logger.error("stills not kept", incident=str(id), reason=error.strerror)
            return EvidenceStill(moment=moment, window_id=window.id, missing=f"{error.strerror}")
        return EvidenceStill(moment=moment, window_id=window.id, digest=stills_digest(folder))

    def _remove(self, id: UUID, now: datetime) -> None:
        """Remove the stills of a dismissed incident, files first."""
        self._awaited.pop(id, None)
        rmtree(self._folder / str(id), ignore_errors=True)
        with self._store.transaction() as transaction:
            transaction.evidence.record_removed(id, DISMISSED, now)


def _settle(
    transaction: Transaction, id: UUID, stills: Sequence[EvidenceStill], now: datetime
) -> IncidentChange | None:
    """Record the stills of an incident; return the note, None if it is dismissed or deleted."""
    before = transaction.find_incident(id)
    if before is None or before.state is IncidentState.DISMISSED:
        return None
    if not transaction.evidence.record_stills(id, stills, now):
        return None
    digests = ", ".join(f"{each.moment} {each.digest or each.missing}" for each in stills)
    after = note(before, WHO, now)
    return IncidentChange(before=before, after=after, who=WHO, note=f"stills: {digests}")


def write_stills(folder: Path, window: Window) -> None:
    """Write the stills of a window as JPEG files, named by their instants; all of them or none."""
    if folder.exists():
        return
    draft = folder.with_name(f".{folder.name}")
    rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for still in window.stills:
        (draft / f"{still.at:%Y%m%dT%H%M%S.%f}Z.jpg").write_bytes(still.jpeg)
    draft.rename(folder)


def stills_digest(folder: Path) -> str:
    """Return the SHA-256 over the names and bytes of a folder's stills."""
    digest = sha256()
    for path in sorted(folder.glob("*.jpg")):
        digest.update(f"{path.name}\n".encode() + sha256(path.read_bytes()).digest())
    return digest.hexdigest()

"""The stills behind an incident: those of the windows before, at and after its beginning.

They are asked for in the transaction in which an incident begins, pending or open, so that a
kill loses none (see `alerts.publish`). A thread of its own copies them out of the log, which
soon forgets them, into a folder of the incident; their digests become a note on its audit trail.
The stills of an incident that is dismissed are removed.
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

from alerts.incidents import note
from alerts.loop import repeat, wait_for
from alerts.publish import Change, publish
from alerts.windows import Found, find_window, next_window
from storage.incidents import IncidentStore
from storage.ledger import Ledger, Work
from storage.log import Log
from storage.records import Finding, IncidentState, Kept, Moment, Window

PATIENCE = timedelta(minutes=10)
"""How long the window after the beginning is waited for, from the first look at the incident."""
AT_ONCE = 20
"""Incidents whose stills are taken in one transaction."""
WHO = "evidence"
NO_WINDOW, NO_FINDING = "the log has no such window", "no finding began it"
DISMISSED = "the incident was dismissed"
_POLL_SECONDS = 1.0
"""How often to look for windows that are waited for."""

_say = structlog.get_logger("alerts.evidence")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Awaited:
    """The window after the beginning of an incident: at `position` of a part, or later."""

    part: str
    camera: str
    position: int
    give_up_at: datetime

    def is_timely(self, now: datetime) -> bool:
        """Return whether there is time left to wait, and not more than there was at first."""
        return now < self.give_up_at <= now + PATIENCE


class EvidenceKeeper:
    """Take the stills of incidents that have begun; safe to kill at any instant."""

    def __init__(self, log: Log, store: IncidentStore, folder: Path) -> None:
        self._log = log
        self._store = store
        self._folder = folder
        self._awaited: dict[UUID, _Awaited] = {}
        self._is_resumed = False

    def run(self, stop: Event) -> None:
        """Take stills until stopped; waits out blocked storage; any other error stops all."""
        repeat(
            lambda: self.run_once(datetime.now(UTC)),
            stop,
            _say,
            seconds=_POLL_SECONDS,
            wait=partial(wait_for, self._store.work[Work.TAKE_STILLS]),
            eager=True,
        )

    def run_once(self, now: datetime) -> int:
        """Take the stills that are there, and remove those of dismissed incidents.

        Return how many incidents were looked after: a few at a time.
        """
        todo = self._store.unsettled_evidence(Moment.AT, AT_ONCE)
        for each in todo:  # before the log is asked, which may be away for long
            if each.state is IncidentState.DISMISSED:
                self._remove(each.id, now)
        if not self._is_resumed:
            self._resume(now)
        begun = [each for each in todo if each.state is not IncidentState.DISMISSED]
        findings = self._store.first_findings(begun)
        kept = {each.id: self._take(each.id, findings.get(each.id), now) for each in begun}
        self._save(kept, now)
        return len(todo) + self._complete(now)

    def _resume(self, now: datetime) -> None:
        """Wait for what the keeper before this one was waiting for."""
        new = {each.id for each in self._store.unsettled_evidence(Moment.AT)}
        left = [e for e in self._store.unsettled_evidence(Moment.AFTER) if e.id not in new]
        for id, finding in self._store.first_findings(left).items():
            found = find_window(self._log, finding)
            if found is None:
                self._save({id: [Kept(moment=Moment.AFTER, missing=NO_WINDOW)]}, now)
            else:
                self._await(id, finding, found, now)
        self._is_resumed = True

    def _take(self, id: UUID, finding: Finding | None, now: datetime) -> list[Kept]:
        """Write the stills of an incident that has begun, as far as their windows are there."""
        found = None if finding is None else find_window(self._log, finding)
        if finding is None or found is None:
            why = NO_FINDING if finding is None else NO_WINDOW
            return [Kept(moment=moment, missing=why) for moment in Moment]
        kept = [self._write(id, Moment.BEFORE, found.before), self._write(id, Moment.AT, found.at)]
        after = next_window(self._log, found.part, found.position, finding.camera)
        if after is None:
            self._await(id, finding, found, now)
            return kept
        return [*kept, self._write(id, Moment.AFTER, after)]

    def _await(self, id: UUID, finding: Finding, found: Found, now: datetime) -> None:
        self._awaited[id] = _Awaited(
            part=found.part,
            camera=finding.camera,
            position=found.position,
            give_up_at=now + PATIENCE,
        )

    def _complete(self, now: datetime) -> int:
        """Write the stills of windows that were waited for; return of how many incidents."""
        ends = {part: self._log.next(part) for part in {e.part for e in self._awaited.values()}}
        kept = dict[UUID, list[Kept]]()
        for id, each in list(self._awaited.items()):
            if len(kept) == AT_ONCE:
                break
            if each.position >= ends[each.part] and each.is_timely(now):
                continue
            window = self._look(each, ends[each.part])
            if window is None and now < each.give_up_at:
                # Our clock may have been set back.
                give_up_at = min(each.give_up_at, now + PATIENCE)
                self._awaited[id] = replace(
                    each, position=max(each.position, ends[each.part]), give_up_at=give_up_at
                )
            else:
                kept[id] = [self._write(id, Moment.AFTER, window)]
        self._save(kept, now)
        for id in kept:
            del self._awaited[id]
        return len(kept)

    def _look(self, awaited: _Awaited, end: int) -> Window | None:
        if awaited.position >= end:
            return None
        return next_window(self._log, awaited.part, awaited.position, awaited.camera)

    def _save(self, kept: Mapping[UUID, Sequence[Kept]], now: datetime) -> None:
        """Write what was kept, and a note of it on the trail of each incident."""
        if not kept:
            return
        with self._store.transaction() as ledger:
            notes = (_noted(ledger, id, each, now) for id, each in kept.items())
            publish(ledger, [change for change in notes if change is not None])

    def _write(self, id: UUID, moment: Moment, window: Window | None) -> Kept:
        if window is None:
            return Kept(moment=moment, missing=NO_WINDOW)
        folder = self._folder / str(id) / moment
        try:
            write(folder, window)
        except OSError as error:
            _say.error("stills not kept", incident=str(id), reason=error.strerror)
            return Kept(moment=moment, window_id=window.id, missing=f"{error.strerror}")
        return Kept(moment=moment, window_id=window.id, digest=digest_of(folder))

    def _remove(self, id: UUID, now: datetime) -> None:
        """Remove the stills of a dismissed incident, the files first."""
        self._awaited.pop(id, None)
        rmtree(self._folder / str(id), ignore_errors=True)
        with self._store.transaction() as ledger:
            ledger.evidence.remove(id, DISMISSED, now)


def _noted(ledger: Ledger, id: UUID, kept: Sequence[Kept], now: datetime) -> Change | None:
    """Settle stills; return the note about them, None where it was dismissed or is gone."""
    before = ledger.find_incident(id)
    if before is None or before.state is IncidentState.DISMISSED:
        return None
    if not ledger.evidence.settle(id, kept, now):
        return None
    said = ", ".join(f"{each.moment} {each.digest or each.missing}" for each in kept)
    after = note(before, WHO, now)
    return Change(before=before, after=after, who=WHO, note=f"stills: {said}")


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

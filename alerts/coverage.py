"""The keeper of the ledger: folds the claims on the topic `coverage` into the database."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

import structlog

from alerts.reading import READER, Batch, decode_batch, read_on
from storage.claims import Claim, decode_claim, encode_claim
from storage.incidents import IncidentStore
from storage.instants import ClockGuard
from storage.ledger import Ledger
from storage.log import COVERAGE, DEAD, WINDOWS, Entry, Log
from storage.records import Coverage, CoverageState
from storage.wire import encode_dead

BATCH = 100
"""Claims that are folded in one transaction."""
LATE = timedelta(minutes=2)
"""How far the time of a window and of its append may be apart."""

_say = structlog.get_logger("alerts.coverage")

Hear = Callable[[Ledger, Coverage], None]
"""`hear(ledger, latest)` is told, in the transaction, of a camera's latest interval when it
becomes longer or changes its state: `latest.start` is since when, `latest.end` until when."""
HearAhead = Callable[[Ledger, Collection[str]], None]
"""`hear_ahead(ledger, cameras)` is told in the same way whose clocks are ahead of ours."""


class CoverageKeeper:
    """Fold every claim once: exactly once in the database.

    Claims that end ahead of our clock become dead letters. While `guard` doubts our clock,
    nothing is folded.
    """

    def __init__(
        self,
        log: Log,
        store: IncidentStore,
        hear: Hear | None = None,
        *,
        guard: ClockGuard | None = None,
        hear_ahead: HearAhead | None = None,
    ) -> None:
        self._log = log
        self._store = store
        self._hear = hear
        self._hear_ahead = hear_ahead
        self._guard = guard or ClockGuard(log)

    def run_once(self) -> int:
        """Fold the claims that wait; return how many entries were handled."""
        if not self._guard.look():
            return 0
        return sum(self._fold_part(part) for part in self._log.parts(COVERAGE))

    def _fold_part(self, part: str) -> int:
        """Fold some of a part's claims, in one transaction."""
        position, entries = read_on(self._log, self._store, part, BATCH)
        batch = decode_batch(entries, decode_claim, lambda claim: claim.end, self._guard)
        if not entries or batch is None:
            return 0
        if entries[0].position > position:
            self._skip(part, position, entries[0])
            position = entries[0].position
        with self._store.transaction() as ledger:
            ledger.advance(READER, part, position, entries[-1].position + 1)
            self._fold(ledger, batch.records)
            self._set_aside(ledger, batch)
        return len(entries)

    def sweep(self, now: datetime) -> None:
        """Claim `shed` for what waits from before the oldest window that the log holds.

        The analyzer claims this of a camera when it reads the next window of it, which may
        never come. Nothing is claimed while claims are still to be folded.
        """
        for claims, windows in zip(
            self._log.parts(COVERAGE), self._log.parts(WINDOWS), strict=True
        ):
            if self._store.position(READER, claims) >= self._log.next(claims):
                self._sweep_part(windows, now)

    def _sweep_part(self, part: str, now: datetime) -> None:
        kept = self._log.read(part, self._log.oldest(part), limit=1)
        gone = (kept[0].at if kept else now) - LATE
        with self._store.transaction() as ledger:
            waiting = ledger.coverage.waiting(gone)
        for camera in waiting:
            if self._log.part_of(WINDOWS, camera) != part:
                continue
            _say.warning("windows were dropped before they were read", camera=camera)
            claim = Claim(camera=camera, start=None, end=gone, state=CoverageState.SHED)
            self._log.append(COVERAGE, camera, encode_claim(claim))

    def _skip(self, part: str, position: int, oldest: Entry) -> None:
        """Go on after claims that the log dropped: what they said nobody knows any more."""
        with self._store.transaction() as ledger:
            ledger.advance(READER, part, position, oldest.position)
            unknown = _unknown(ledger, min(oldest.at, self._guard.present.now) + LATE)
            self._fold(
                ledger, [c for c in unknown if self._log.part_of(COVERAGE, c.camera) == part]
            )

    def _fold(self, ledger: Ledger, claims: Sequence[Claim]) -> None:
        for claim in claims:
            latest = ledger.coverage.add(claim, self._guard.present)
            if latest is not None and self._hear is not None:
                self._hear(ledger, latest)

    def _set_aside(self, ledger: Ledger, batch: Batch[Claim]) -> None:
        for dead in batch.dead:
            _say.error("claim set aside", position=dead.position, reason=dead.reason)
            self._log.append(DEAD, dead.key, encode_dead(dead))
        if batch.ahead and self._hear_ahead is not None:
            self._hear_ahead(ledger, batch.ahead)


def _unknown(ledger: Ledger, until: datetime) -> list[Claim]:
    """Return claims that all cameras were shed from where the ledger stands."""
    latest = [ledger.coverage.latest(camera) for camera in ledger.coverage.cameras()]
    return [
        Claim(camera=last.camera, start=last.end, end=until, state=CoverageState.SHED)
        for last in latest
        if last is not None and last.end < until
    ]

"""The keeper of the ledger: folds the claims on the topic `coverage` into the database."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

import structlog

from alerts.reading import READER, Batch, decode_batch, entries_of, is_of
from storage.claims import Claim, decode_claim, encode_claim
from storage.incidents import IncidentStore
from storage.instants import ClockGuard
from storage.ledger import Ledger
from storage.log import COVERAGE, WINDOWS, Log, Page
from storage.records import Coverage, CoverageState
from storage.unpublished import set_aside

LATE = timedelta(minutes=2)
"""How far the time of a window and of its append may be apart."""

_say = structlog.get_logger("alerts.coverage")

Hear = Callable[[Ledger, Sequence[Coverage]], None]
"""`hear(ledger, changed)` hears, in the transaction and in order, of each claim that made a
camera's latest interval longer or changed its state: `start` is since when, `end` until when."""
HearAhead = Callable[[Ledger, Collection[str]], None]
"""`hear_ahead(ledger, cameras)` is told in the same way whose clocks are ahead of ours."""


class CoverageKeeper:
    """Fold what the judge reads of the topic, in its transaction: exactly once in the database.

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

    def decode(self, pages: Sequence[Page]) -> Batch[Claim] | None:
        """Return the claims in what was read; None where our clock is in doubt."""
        entries = entries_of(pages, COVERAGE)
        return decode_batch(entries, decode_claim, lambda claim: claim.end, self._guard)

    def write(self, ledger: Ledger, pages: Sequence[Page], batch: Batch[Claim]) -> None:
        """Fold claims, and what is unknown where the log dropped some before they were read."""
        unknown = [claim for each in pages for claim in self._unknown(ledger, each)]
        changed = ledger.coverage.fold([*unknown, *batch.records], self._guard.present)
        if changed and self._hear is not None:
            self._hear(ledger, changed)
        self._set_aside(ledger, batch)

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

    def _unknown(self, ledger: Ledger, page: Page) -> list[Claim]:
        """Return claims that the cameras of a part were shed while the log dropped what it held."""
        if not (page.missed and is_of(page, COVERAGE)):
            return []
        now = self._guard.present.now
        until = min([now, *(entry.at for entry in page[:1])]) + LATE
        cameras = ledger.coverage.cameras()
        latest = [
            ledger.coverage.latest(camera)
            for camera in cameras
            if self._log.part_of(COVERAGE, camera) == page.part
        ]
        return [
            Claim(camera=last.camera, start=last.end, end=until, state=CoverageState.SHED)
            for last in latest
            if last is not None and last.end < until
        ]

    def _set_aside(self, ledger: Ledger, batch: Batch[Claim]) -> None:
        for dead in batch.dead:
            _say.error("claim set aside", position=dead.position, reason=dead.reason)
        set_aside(ledger, batch.dead)
        if batch.ahead and self._hear_ahead is not None:
            self._hear_ahead(ledger, batch.ahead)

"""The keeper of the ledger: folds the claims on the topic `coverage` into the database."""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime

import structlog

from alerts.reading import READER, Batch, decode_batch, entries_of, is_of
from alerts.windows import entries_from, first_since
from storage.claims import OF_CAMERAS, Claim, covered_by, decode_claim
from storage.coverage import CoverageRows
from storage.errors import Unreadable
from storage.incidents import IncidentStore
from storage.instants import ClockGuard
from storage.ledger import Ledger
from storage.log import COVERAGE, WINDOWS, Entry, Log, Page
from storage.records import Coverage, CoverageState, Span
from storage.unpublished import set_aside

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
        self._waits = dict[str, tuple[datetime, int]]()

    def decode(self, pages: Sequence[Page]) -> Batch[Claim] | None:
        """Return the claims in what was read; None where our clock is in doubt."""
        entries = entries_of(pages, COVERAGE)
        return decode_batch(entries, decode_claim, lambda claim: claim.end, self._guard)

    def write(self, ledger: Ledger, pages: Sequence[Page], batch: Batch[Claim]) -> None:
        """Fold claims, and what is unknown where the log dropped some before they were read."""
        unknown = [claim for each in pages for claim in self._unknown(ledger, each)]
        self._fold(ledger, [*unknown, *batch.records])
        self._set_aside(ledger, batch)

    def sweep(self, now: datetime) -> None:
        """Fold `shed` for what waits from before the oldest window of its camera in the log.

        The analyzer claims this of a camera when it reads the next window of it, which may
        never come. The ledger has it at once, whether or not the log takes anything. Nothing is
        folded while claims are still to be folded, or our clock is in doubt.
        """
        if self._guard.doubt is not None:
            return
        # Others may have added parts to the claims, which have no windows.
        for windows, claims in zip(
            self._log.parts(WINDOWS), self._log.parts(COVERAGE), strict=False
        ):
            if self._store.position(READER, claims) >= self._log.next(claims):
                self._sweep_part(windows)

    def _sweep_part(self, part: str) -> None:
        with self._store.reading() as connection:
            waiting = CoverageRows(connection).waiting()
        for camera, waits in waiting.items():
            if self._log.part_of(WINDOWS, camera) != part:
                continue
            gone = self._gone(part, camera, waits)
            if gone > waits.start:
                _say.warning("windows were dropped before they were read", camera=camera)
                claim = Claim(camera=camera, start=None, end=gone, state=CoverageState.SHED)
                with self._store.transaction() as ledger:
                    self._fold(ledger, [claim])

    def _fold(self, ledger: Ledger, claims: Sequence[Claim]) -> None:
        changed = ledger.coverage.fold(claims, self._guard.present)
        if changed and self._hear is not None:
            self._hear(ledger, changed)

    def _gone(self, part: str, camera: str, waits: Span) -> datetime:
        """Return up to when the log no longer keeps what waits, by its camera's clock.

        The log is read where what waits is the same as at the last sweep, and once for as long
        as it is kept.
        """
        start, position = self._waits.get(camera, (waits.start, -1))
        if start != waits.start:
            self._waits[camera] = (waits.start, -1)
        elif self._log.oldest(part) > position:
            gone, position = gone_until(self._log, part, camera, waits)
            self._waits[camera] = (waits.start, position)
            return gone
        return waits.start

    def _unknown(self, ledger: Ledger, page: Page) -> list[Claim]:
        """Return claims that the cameras of a part were shed while the log dropped what it held.

        Each up to its first claim that was kept, or the first of all, by the cameras' clocks;
        where none was kept, up to now.
        """
        if not (page.missed and is_of(page, COVERAGE)):
            return []
        known = _known_from(page)
        first = min(known.values(), default=self._guard.present.now)
        latest = [
            ledger.coverage.latest(camera)
            for camera in ledger.coverage.cameras()
            if self._log.part_of(COVERAGE, camera) == page.part
        ]
        ends = [(last, known.get(last.camera, first)) for last in latest if last]
        return [
            Claim(camera=last.camera, start=last.end, end=end, state=CoverageState.SHED)
            for last, end in ends
            if last.end < end
        ]

    def _set_aside(self, ledger: Ledger, batch: Batch[Claim]) -> None:
        for dead in batch.dead:
            _say.error("claim set aside", position=dead.position, reason=dead.reason)
        set_aside(ledger, batch.dead)
        if batch.ahead and self._hear_ahead is not None:
            self._hear_ahead(ledger, batch.ahead)


def gone_until(log: Log, part: str, camera: str, waits: Span) -> tuple[datetime, int]:
    """Return up to when the log dropped what waits, and the position of the first that it kept.

    The log drops its oldest entries: what waits between others of its camera is still there.
    """
    kept = first_since(log, part, camera, waits.start)
    start = covered_by(kept.window).start if kept else waits.end
    if kept and start <= waits.start:
        return waits.start, kept.position
    first = next(entries_from(log, part, log.oldest(part), camera, at_once=1), None)
    if first is None:
        return waits.end, -1
    is_first = kept is not None and kept.position == first.position
    return start if is_first else waits.start, first.position


def _known_from(entries: Iterable[Entry]) -> dict[str, datetime]:
    """Return since when the process of each camera is heard of in a part of the claims."""
    known = dict[str, datetime]()
    for entry in entries:
        with suppress(Unreadable):
            claim = decode_claim(entry.value)
            if claim.state in OF_CAMERAS:
                known.setdefault(claim.camera, claim.start or claim.end)
    return known

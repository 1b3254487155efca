"""Claims and ledgers in short, and an oracle that knows every second by itself."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from storage.records.claims import Claim
from storage.records.records import CoverageInterval, CoverageState, TimeSpan

START = datetime(2026, 11, 22, 8, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def a_span(start: float, end: float) -> TimeSpan:
    return TimeSpan(start=at(start), end=at(end))


def a_claim(
    start: float | None,
    end: float,
    state: CoverageState,
    camera: str = "dock",
    reason: str = "",
) -> Claim:
    began = None if start is None else at(start)
    return Claim(camera=camera, start=began, end=at(end), state=state, reason=reason)


def second_of(instant: datetime) -> float:
    return (instant - START).total_seconds()


def as_seconds(rows: Iterable[CoverageInterval]) -> list[tuple[float, float, CoverageState]]:
    """Return rows in short."""
    return [(second_of(row.start), second_of(row.end), row.state) for row in rows]


class PerSecondLedger:
    """A ledger with one entry for each second of one camera, and no cleverness."""

    def __init__(self) -> None:
        self.states: dict[int, CoverageState] = {}

    def apply(self, claim: Claim) -> None:
        end = int(second_of(claim.end))
        if claim.start is not None:
            seconds = list(range(int(second_of(claim.start)), end))
        elif claim.state is CoverageState.INGEST_DOWN:
            seconds = list(range(max(self.states) + 1, end)) if self.states else []
        else:
            waiting = CoverageState.WAITING
            seconds = [s for s, state in self.states.items() if s < end and state is waiting]
        order = list(CoverageState)
        for second in seconds:
            known = self.states.get(second, claim.state)
            self.states[second] = max(known, claim.state, key=order.index)

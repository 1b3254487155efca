"""Claims folded in batches make the ledger, and tell the changes, that claims one by one make."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event, select

from kit.coverage.claims import a_claim, at
from kit.coverage.naive_ledger import NaiveCoverageLedger
from storage.clock import CurrentTime
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.db.rows.coverage import CoverageRows
from storage.db.transaction import Transaction
from storage.records.claims import Claim
from storage.records.records import CoverageInterval, CoverageState

WAITING, ANALYSED = CoverageState.WAITING, CoverageState.ANALYSED
UNIT = 900
"""Seconds: a batch of these claims reaches further back than is read of it at first."""
CAMERAS = ("dock", "yard", "gate")
TOLERANCE = timedelta(seconds=2 * UNIT)


@st.composite
def claims(draw: st.DrawFn) -> Claim:
    start, length = draw(st.integers(0, 30)), draw(st.integers(1, 8))
    begins = start * UNIT if draw(st.integers(0, 3)) else None
    state = draw(st.sampled_from(CoverageState))
    reason = draw(st.sampled_from(["", "silent", "refused"]))
    end = (start + length) * UNIT
    return a_claim(begins, end, state, draw(st.sampled_from(CAMERAS)), reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimBatch:
    claims: list[Claim]
    present: CurrentTime | None


@st.composite
def batches(draw: st.DrawFn) -> ClaimBatch:
    held = draw(st.lists(claims(), max_size=8))
    now = draw(st.none() | st.integers(0, 40))
    present = None if now is None else CurrentTime(now=at(now * UNIT), tolerance=TOLERANCE)
    return ClaimBatch(claims=held + draw(st.sampled_from([[], held[:2]])), present=present)


class RolledBack(Exception):
    pass


@contextmanager
def kept_by_nobody(engine: Engine) -> Iterator[Transaction]:
    """Lend a transaction of which nothing stays."""
    try:
        with AlertStore(engine).transaction() as transaction:
            yield transaction
            raise RolledBack
    except RolledBack:
        pass


def outcome(
    rows: CoverageRows | NaiveCoverageLedger, ledger: Transaction, given: list[ClaimBatch]
) -> object:
    changed = [rows.fold(each.claims, each.present) for each in given]
    table = ledger.connection.execute(select(tables.coverage)).all()
    latest = [rows.latest(camera, given[-1].present) for camera in CAMERAS] if given else []
    after = ledger.connection.execute(select(tables.coverage)).all()
    return changed, set(table), latest, set(after)


def test_batches_leave_and_tell_what_claims_one_by_one_do(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'longwatch.db'}")

    @settings(deadline=None, max_examples=30)
    @given(given_batches=st.lists(batches(), max_size=5))
    def one(given_batches: list[ClaimBatch]) -> None:
        with kept_by_nobody(engine) as ledger:
            expected = outcome(NaiveCoverageLedger(ledger.connection), ledger, given_batches)
        with kept_by_nobody(engine) as ledger:
            assert outcome(ledger.coverage, ledger, given_batches) == expected

    one()
    engine.dispose()


def statements(ledger: Transaction, given: list[Claim]) -> int:
    """Return how many statements it takes to fold claims."""
    seen = list[str]()

    def count(_: object, __: object, statement: str, *___: object) -> None:
        seen.append(statement)

    event.listen(ledger.connection, "before_cursor_execute", count)
    ledger.coverage.fold(given, CurrentTime(now=at(1000)))
    event.remove(ledger.connection, "before_cursor_execute", count)
    return len(seen)


def round_of(cameras: int, number: int) -> list[Claim]:
    return [
        a_claim(16 * number, 16 * number + 16, state, f"camera-{n}")
        for n in range(cameras)
        for state in (WAITING, ANALYSED)
    ]


def test_a_batch_takes_as_few_statements_as_one_claim(engine: Engine) -> None:
    with AlertStore(engine).transaction() as transaction:
        transaction.coverage.fold(round_of(50, 0))
        assert statements(transaction, round_of(50, 1)) == 2
        assert statements(transaction, round_of(1, 2)) == 2
        late = [a_claim(16, 32, CoverageState.FROZEN, f"camera-{n}") for n in range(50)]
        assert statements(transaction, late) == 2
    engine.dispose()


def test_late_claim_does_not_read_what_came_since(engine: Engine) -> None:
    day = 86400.0
    with AlertStore(engine).transaction() as transaction:
        for n in range(30):
            transaction.coverage.fold([a_claim(n * day, n * day + 60, ANALYSED)])
        found = transaction.coverage.fold(
            [a_claim(60, 120, ANALYSED), a_claim(29 * day + 60, 29 * day + 120, ANALYSED)]
        )
        assert found == [
            CoverageInterval(
                camera="dock", start=at(29 * day), end=at(29 * day + 120), state=ANALYSED
            )
        ]
    engine.dispose()


HOUR = 3600.0
NOW = CurrentTime(now=at(10 * HOUR))


def both(engine: Engine, *given: tuple[list[Claim], CurrentTime | None]) -> None:
    """Check that batches do what claims one by one do."""
    held = [ClaimBatch(claims=claims, present=present) for claims, present in given]
    with kept_by_nobody(engine) as ledger:
        expected = outcome(NaiveCoverageLedger(ledger.connection), ledger, held)
    with kept_by_nobody(engine) as ledger:
        assert outcome(ledger.coverage, ledger, held) == expected


def test_what_waited_long_ago_is_found(engine: Engine) -> None:
    seen = a_claim(9 * HOUR, 10 * HOUR, ANALYSED)
    shed = a_claim(None, 10 * HOUR, CoverageState.SHED)
    both(engine, ([a_claim(0, 16, WAITING), a_claim(16, 32, ANALYSED), seen], NOW), ([shed], NOW))
    engine.dispose()


def test_all_that_is_ahead_is_taken_back_though_little_of_it_was_read(engine: Engine) -> None:
    ahead = [
        a_claim(9 * HOUR, 11 * HOUR, ANALYSED),
        a_claim(12 * HOUR, 13 * HOUR, WAITING),
        a_claim(40 * HOUR, 41 * HOUR, ANALYSED),
    ]
    both(engine, (ahead, None), ([a_claim(10 * HOUR, 10 * HOUR + 16, WAITING)], NOW))
    late = [a_claim(40 * HOUR, 40 * HOUR + 16, WAITING), a_claim(HOUR, HOUR + 16, WAITING)]
    both(engine, (ahead, None), (late, NOW))
    engine.dispose()

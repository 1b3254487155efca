"""The algebra of the ledger against an oracle that keeps every second by itself."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete

from kit.coverage.claims import PerSecondLedger, a_claim, a_span, as_seconds, at, second_of
from kit.storage.fixtures import a_window
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.db.rows.coverage import CoverageStore
from storage.errors import Unreadable
from storage.records.claims import (
    Claim,
    clip_intervals,
    covered_span,
    decode_claim,
    encode_claim,
    merge_intervals,
    resolve_claim,
    uncovered_spans,
)
from storage.records.records import CoverageInterval, CoverageState

CoverageStates = st.sampled_from(CoverageState)
DOWN, WAITING, SHED = CoverageState.INGEST_DOWN, CoverageState.WAITING, CoverageState.SHED
ANALYSED, FROZEN = CoverageState.ANALYSED, CoverageState.FROZEN


@st.composite
def claims(draw: st.DrawFn) -> Claim:
    start, end = draw(st.integers(0, 40)), draw(st.integers(1, 12))
    begins = start if draw(st.integers(0, 5)) else None
    state, reason = draw(CoverageStates), draw(st.sampled_from(["", "silent", "refused"]))
    return a_claim(begins, start + end, state, reason=reason)


def by_second(rows: list[CoverageInterval]) -> dict[int, CoverageState]:
    return {
        second: row.state
        for row in rows
        for second in range(int(second_of(row.start)), int(second_of(row.end)))
    }


def state_and_reason(row: CoverageInterval) -> tuple[CoverageState, str]:
    return row.state, row.reason


def is_a_ledger(rows: list[CoverageInterval]) -> bool:
    """Say whether rows are disjoint, in order, and none could be joined with the next."""
    return all(
        one.end < other.start
        or (one.end == other.start and state_and_reason(one) != state_and_reason(other))
        for one, other in pairwise(rows)
    ) and all(row.start < row.end for row in rows)


@settings(deadline=None, max_examples=300)
@given(st.lists(claims(), max_size=25))
def test_every_second_is_in_the_state_that_says_most(given_claims: list[Claim]) -> None:
    oracle, rows = PerSecondLedger(), list[CoverageInterval]()
    for claim in given_claims:
        oracle.apply(claim)
        rows = merge_intervals([*rows, *resolve_claim(claim, rows)])
        assert is_a_ledger(rows)
        assert by_second(rows) == oracle.states


@settings(deadline=None)
@given(st.lists(claims().filter(lambda claim: claim.start is not None), max_size=10), st.data())
def test_late_and_doubled_claims_make_the_same_ledger(
    given_claims: list[Claim], data: st.DataObject
) -> None:
    rows = [row for claim in given_claims for row in resolve_claim(claim, [])]
    again = data.draw(st.permutations(rows + rows[:3]))
    folded = list[CoverageInterval]()
    for row in again:
        folded = merge_intervals([*folded, row])
    assert folded == merge_intervals(rows)


def test_the_table_says_the_same_as_the_values(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'longwatch.db'}")

    @settings(deadline=None, max_examples=25)
    @given(given_claims=st.lists(claims(), max_size=15))
    def one(given_claims: list[Claim]) -> None:
        oracle = PerSecondLedger()
        with AlertStore(engine).transaction() as transaction:
            transaction.connection.execute(delete(tables.coverage))
            for claim in given_claims:
                oracle.apply(claim)
            transaction.coverage.fold(given_claims)
        rows = CoverageStore(engine).between("dock", a_span(-1, 1000))
        assert is_a_ledger(rows)
        assert by_second(rows) == oracle.states

    one()
    engine.dispose()


def test_a_quiet_year_is_one_row(engine: Engine) -> None:
    with AlertStore(engine).transaction() as transaction:
        for n in range(150):
            window = (16 * n, 16 * n + 16)
            transaction.coverage.fold([a_claim(*window, WAITING), a_claim(*window, ANALYSED)])
    store = CoverageStore(engine)
    assert as_seconds(store.between("dock", a_span(0, 2400))) == [(0, 2400, ANALYSED)]
    assert store.extent("dock") == a_span(0, 2400)
    assert store.extent("yard") is None
    engine.dispose()


def test_who_folds_hears_of_the_latest_interval_when_it_changes_or_grows(engine: Engine) -> None:
    with AlertStore(engine).transaction() as transaction:
        changed = transaction.coverage.fold(
            [
                a_claim(0, 16, WAITING),
                a_claim(0, 16, ANALYSED),
                a_claim(0, 16, ANALYSED),
                a_claim(10, 32, FROZEN),
                a_claim(16, 32, WAITING),
                a_claim(16, 32, ANALYSED),
                a_claim(32, 48, FROZEN),
                a_claim(48, 64, WAITING),
            ]
        )
    assert as_seconds(changed) == [
        (0, 16, WAITING),
        (0, 16, ANALYSED),
        (10, 32, FROZEN),
        (10, 48, FROZEN),
        (48, 64, WAITING),
    ]
    engine.dispose()


def test_ingest_that_is_back_explains_from_where_the_ledger_stands() -> None:
    rows = merge_intervals(resolve_claim(a_claim(0, 16, ANALYSED), []))
    assert as_seconds(resolve_claim(a_claim(None, 50, DOWN), rows)) == [(16, 50, DOWN)]
    assert resolve_claim(a_claim(None, 10, DOWN), rows) == []
    assert resolve_claim(a_claim(None, 50, DOWN), []) == []


def test_what_is_read_out_of_order_explains_what_waited_before_it() -> None:
    rows = [row for n in (0, 32) for row in resolve_claim(a_claim(n, n + 16, WAITING), [])]
    assert as_seconds(resolve_claim(a_claim(None, 40, SHED), rows)) == [
        (0, 16, SHED),
        (32, 40, SHED),
    ]


def test_holes_are_found_and_nothing_else() -> None:
    rows = [row for n in (0, 32) for row in resolve_claim(a_claim(n, n + 16, ANALYSED), [])]
    assert uncovered_spans(rows, a_span(0, 48)) == [a_span(16, 32)]
    assert uncovered_spans(rows, a_span(-5, 60)) == [a_span(-5, 0), a_span(16, 32), a_span(48, 60)]
    assert uncovered_spans(rows, a_span(4, 10)) == []
    assert as_seconds(clip_intervals(rows, a_span(8, 40))) == [
        (8, 16, ANALYSED),
        (32, 40, ANALYSED),
    ]


def test_window_of_an_earlier_version_covers_its_stills_and_one_period() -> None:
    window = a_window()
    covers = covered_span(window)
    assert covers.start == window.start
    assert (covers.end - window.end).total_seconds() == 1.0


@settings(deadline=None)
@given(claims())
def test_claim_comes_back_as_it_was(claim: Claim) -> None:
    assert decode_claim(encode_claim(claim)) == claim


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ((b'"version":1', b'"version":3'), "version 3, not 1 or 2: upgrade longwatch, then"),
        ((b'"version":1', b'"version":0'), "version 0, not 1 or 2$"),
        ((b'"version":1', b'"version":2'), "base: missing"),
        ((b'"state":"shed"', b'"state":"lost"'), "state: Input should be 'ingest_down'"),
        ((b'"state":"shed"', b'"state":"moved"'), "state: moved is of version 2"),
        ((b'"camera":"dock"', b'"camera":""'), "camera: String should have at least 1 character"),
        ((b'"start":', b'"begin":'), "start: missing"),
        ((b"08:00:07", b"08:00:00"), "start: not before end"),
    ],
)
def test_claims_are_read_exactly(damage: tuple[bytes, bytes], reason: str) -> None:
    value = encode_claim(a_claim(0, 7, SHED))
    assert damage[0] in value
    with pytest.raises(Unreadable, match=reason):
        decode_claim(value.replace(*damage))


def test_bytes_of_version_1_stay_readable() -> None:
    golden = (Path(__file__).parent / "golden" / "wire" / "claim.v1").read_bytes()
    assert decode_claim(golden) == a_claim(0, 16, ANALYSED)
    assert encode_claim(a_claim(0, 16, ANALYSED)) == golden
    assert at(0) == a_claim(0, 16, ANALYSED).start


def test_bytes_of_a_reason_stay_readable() -> None:
    golden = (Path(__file__).parent / "golden" / "wire" / "claim-with-reason.v1").read_bytes()
    claim = a_claim(0, 16, CoverageState.CAMERA_DOWN, reason="10.0.0.21 refuses the password")
    assert decode_claim(golden) == claim
    assert encode_claim(claim) == golden


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("x" * 100_000, "x" * 499 + "…"),
        ("two\r\nlines\tand \x1b[31mred\x00", "two lines and [31mred"),
        ("right \u202eto left\ud800", "right to left"),
        ("\n \x07", ""),
        ("{0.__class__}", "{0.__class__}"),
    ],
)
def test_reason_is_kept_as_one_short_line(reason: str, kept: str) -> None:
    claim = a_claim(0, 16, CoverageState.CAMERA_DOWN, reason=reason)
    assert decode_claim(encode_claim(claim)).reason == kept


@settings(deadline=None)
@given(st.text(max_size=3000))
def test_any_reason_makes_a_claim_that_is_read(reason: str) -> None:
    claim = a_claim(0, 16, CoverageState.CAMERA_DOWN, reason=reason)
    assert len(decode_claim(encode_claim(claim)).reason) <= 500

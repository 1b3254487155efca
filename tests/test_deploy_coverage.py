"""`longwatch coverage`: a table, a picture, totals that make up the whole, and JSON."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import alembic.command
import jsonschema
import pytest
from alembic.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text
from sqlalchemy import create_engine, text

from deploy.cli.coverage_summary import CoverageSummary, summarize_coverage
from deploy.cli.render.coverage import (
    CELLS_PER_DAY,
    COLOURS,
    MAX_DAYS,
    coverage_fields,
    coverage_parts,
)
from deploy.config.data_dir import DATABASE_FILE, database_url
from kit.coverage.claims import START, a_claim, a_span, at
from kit.deploy.command import Command
from storage.db.alert_store import AlertStore
from storage.db.database import MIGRATIONS, open_database
from storage.db.rows.coverage import CoverageStore
from storage.records.claims import (
    Claim,
    clip_intervals,
    encode_claim,
    merge_intervals,
    resolve_claim,
)
from storage.records.cloudevents import SCHEMAS
from storage.records.records import CoverageInterval, CoverageState, TimeSpan
from storage.records.topics import COVERAGE

ANALYSED, DOWN = CoverageState.ANALYSED, CoverageState.CAMERA_DOWN
WAITING = CoverageState.WAITING
CLAIMS = (a_claim(0, 3600, ANALYSED), a_claim(3600, 3660, DOWN), a_claim(3660, 3676, WAITING))


@pytest.fixture(name="data")
def with_a_ledger(tmp_path: Path) -> Path:
    engine = open_database(database_url(tmp_path))
    with AlertStore(engine).transaction() as transaction:
        for claim in CLAIMS:
            transaction.coverage.fold([claim])
    engine.dispose()
    return tmp_path


def rows(*claims: Claim) -> list[CoverageInterval]:
    return merge_intervals(row for claim in claims for row in resolve_claim(claim, []))


def test_every_second_of_the_span_is_told_once(command: Command, data: Path) -> None:
    words = ("--from", at(1800).isoformat(), "--to", at(3700).isoformat(), "--json")
    result = command("coverage", "dock", "--data", data, *words)
    found = json.loads(result.stdout)
    assert (result.returncode, result.stderr) == (0, "")
    lasted = {state: seconds for state, seconds in found["seconds"].items() if seconds}
    assert lasted == {"analysed": 1800, "camera_down": 60}
    assert (found["waiting"], found["untold"], found["unexplained"]) == (16, 24, 0)
    assert found["shares"]["camera_down"] == pytest.approx(60 / 1900)
    assert found["from"] == at(1800).isoformat()
    assert [each["seconds"] for each in found["intervals"]] == [1800, 60, 16]
    whole = sum(lasted.values()) + found["waiting"] + found["untold"] + found["unexplained"]
    assert whole == 1900
    assert not set(found["seconds"]) & {"waiting"}


def test_person_sees_a_table_a_picture_and_the_sum(command: Command, data: Path) -> None:
    words = ("--from", at(-7200).isoformat(), "--to", at(3700).isoformat())
    result = command("coverage", "dock", "--data", data, *words)
    assert result.returncode == 0, result.stderr
    assert "2026-11-22 09:00:00Z" in result.stdout
    (bar,) = (line for line in result.stdout.splitlines() if line.startswith("2026-11-22 "))
    assert bar.removeprefix("2026-11-22 ")[31:38] == " █████ "
    assert "camera_down" in result.stdout
    assert "unexplained: 0 s" in result.stdout


def test_reason_is_shown_beside_its_interval() -> None:
    why = "10.0.0.21 refuses the [/] password"
    ledger = rows(a_claim(0, 100, DOWN, reason=why), a_claim(100, 130, DOWN, reason="silent"))
    found = summarize_coverage("dock", ledger, a_span(0, 130), a_span(0, 130))
    assert [each["reason"] for each in coverage_fields(found)["intervals"]] == [why, "silent"]
    assert coverage_fields(found)["seconds"]["camera_down"] == 130
    console = Console(width=160, record=True)
    for part in coverage_parts(found):
        console.print(part)
    assert why in console.export_text()


def test_hole_is_reckoned_and_shown() -> None:
    ledger = rows(a_claim(0, 100, ANALYSED), a_claim(130, 200, ANALYSED))
    found = summarize_coverage("dock", ledger, a_span(-50, 260), a_span(0, 200))
    told = coverage_fields(found)
    assert (told["unexplained"], told["untold"], told["from"]) == (30, 60, at(0).isoformat())
    assert told["holes"] == [{"start": at(100).isoformat(), "end": at(130).isoformat()}]
    console = Console(width=160, record=True)
    for part in coverage_parts(found):
        console.print(part)
    said = console.export_text()
    assert "unexplained: 30 s" in said
    assert "!" in said.split("2026-11-22 ")[-1]


def test_short_outage_stands_low_in_the_picture() -> None:
    ledger = rows(a_claim(0, 1800, ANALYSED), a_claim(900, 930, CoverageState.COVERED))
    console = Console(width=160, record=True)
    for part in coverage_parts(
        summarize_coverage("dock", ledger, a_span(0, 1800), a_span(0, 1800))
    ):
        console.print(part)
    (bar,) = (line for line in console.export_text().splitlines() if line.startswith("2026"))
    assert bar.removeprefix("2026-11-22 ").strip() == "█▄"


def test_span_before_or_after_the_ledger_is_not_unexplained() -> None:
    ledger, extent = rows(a_claim(0, 100, ANALYSED)), a_span(0, 100)
    before = coverage_fields(summarize_coverage("dock", ledger, a_span(-100, -50), extent))
    after = coverage_fields(summarize_coverage("dock", ledger, a_span(150, 200), extent))
    assert (before["unexplained"], before["untold"]) == (0, 0)
    assert (after["unexplained"], after["untold"]) == (0, 50)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("yard",), 1, "camera 'yard' has no coverage (known: dock)"),
        (("dock", "--from", "yesterday"), 2, "--from: write it as 2026-11-22T18:00:00+01:00"),
        (("dock", "--to", "tomorrow"), 2, "--to: write it as 2026-11-22T18:00:00+01:00"),
        (
            ("dock", "--from", "2026-11-22T09:00", "--to", "2026-11-22T08:00"),
            2,
            "--from: it must be before --to",
        ),
    ],
)
def test_what_cannot_be_told_is_said_in_one_line(
    words: tuple[str, ...], code: int, said: str, command: Command, data: Path
) -> None:
    result = command("coverage", *words, "--data", data)
    assert result.returncode == code
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_database_from_before_the_ledger_has_none(command: Command, tmp_path: Path) -> None:
    steps = Config()
    steps.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(database_url(tmp_path))
    with engine.begin() as connection:
        steps.attributes["connection"] = connection
        alembic.command.upgrade(steps, "0002")
    engine.dispose()
    result = command("coverage", "dock", "--data", tmp_path)
    assert (result.returncode, "run `longwatch db upgrade`" in result.stderr) == (2, True)
    assert command("db", "upgrade", "--data", tmp_path).returncode == 0
    result = command("coverage", "dock", "--data", tmp_path)
    assert (result.returncode, result.stderr) == (
        1,
        "camera 'dock' has no coverage (known: none yet)\n",
    )
    engine = open_database(f"sqlite:///{tmp_path / DATABASE_FILE}")
    assert CoverageStore(engine).latest() == []
    engine.dispose()


def test_ledger_from_before_reasons_is_read_and_continued(tmp_path: Path) -> None:
    url = database_url(tmp_path)
    engine = create_engine(url)
    with engine.begin() as connection:
        steps = Config()
        steps.set_main_option("script_location", str(MIGRATIONS))
        steps.attributes["connection"] = connection
        alembic.command.upgrade(steps, "0007")
        row = {"start": "2026-11-22 08:00:00", "end": "2026-11-22 08:01:00"}
        connection.execute(
            text("INSERT INTO coverage VALUES ('dock', :start, :end, 'camera_down')"), row
        )
    engine.dispose()
    opened = open_database(url)
    with AlertStore(opened).transaction() as transaction:
        transaction.coverage.fold([a_claim(60, 90, DOWN, reason="silent")])
    told = CoverageStore(opened).between("dock", a_span(0, 90))
    assert [(row.end, row.reason) for row in told] == [(at(60), ""), (at(90), "silent")]
    opened.dispose()


def test_a_thousand_quiet_days_are_drawn_in_a_month_at_most() -> None:
    late = START + timedelta(days=1000)
    ledger = [CoverageInterval(camera="dock", start=START, end=late, state=ANALYSED)]
    whole = a_span(0, timedelta(days=1000).total_seconds())
    console = Console(width=160, record=True)
    for part in coverage_parts(summarize_coverage("dock", ledger, whole, whole)):
        console.print(part)
    bars = [line for line in console.export_text().splitlines() if line.startswith("20")]
    assert len(bars) <= 32


def test_every_state_has_a_colour_and_is_in_a_schema_of_claims() -> None:
    schemas = {
        number: json.loads(files("storage.records").joinpath("schemas", name).read_text())
        for number, name in enumerate(SCHEMAS[COVERAGE], 1)
    }
    assert set(COLOURS) == set(CoverageState)
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert schemas[2]["properties"]["base"]["enum"] == list(CoverageState)
    for state in CoverageState:
        claim = json.loads(encode_claim(a_claim(0, 60, state)))
        jsonschema.validate(claim, schemas[claim["version"]])
        found = summarize_coverage(
            "dock", rows(a_claim(0, 60, state)), a_span(0, 60), a_span(0, 60)
        )
        assert len([*coverage_parts(found)]) > 2


def cell_by_cell(found: CoverageSummary) -> list[Text]:
    """Draw the days as `parts` does, but look at all intervals anew for each cell."""
    day = found.span.start.replace(hour=0, minute=0, second=0, microsecond=0)
    day = max(day, found.span.end - timedelta(days=MAX_DAYS))
    bars = []
    while day < found.span.end:
        bars.append(Text(f"{day:%Y-%m-%d} "))
        for cell in range(CELLS_PER_DAY):
            start = day + timedelta(days=1) * cell / CELLS_PER_DAY
            span = TimeSpan(start=start, end=start + timedelta(days=1) / CELLS_PER_DAY)
            bars[-1].append(*a_cell(found, span))
        day += timedelta(days=1)
    return bars


def a_cell(found: CoverageSummary, span: TimeSpan) -> tuple[str, str]:
    if any(hole.start < span.end and span.start < hole.end for hole in found.unexplained):
        return "!", "bold red"
    lasted: dict[CoverageState, timedelta] = {}
    for each in clip_intervals(found.intervals, span):
        lasted[each.state] = lasted.get(each.state, timedelta()) + each.end - each.start
    others = {state: time for state, time in lasted.items() if state != ANALYSED}
    if not lasted:
        return " ", ""
    shown = max(others or lasted, key=lambda state: lasted[state])
    is_most = lasted[shown] >= sum(lasted.values(), timedelta()) / 2
    return ("█" if is_most else "▄"), COLOURS[shown]


EDGES = st.one_of(
    st.integers(-8 * 96, 36 * 96).map(lambda quarter: 900.0 * quarter),
    st.floats(-700_000, 3_000_000).map(lambda seconds: round(seconds, 3)),
)
A_CLAIM = st.builds(
    lambda start, lasts, state: a_claim(start, start + lasts, state),
    EDGES,
    st.one_of(st.floats(0.001, 3000), st.floats(0.001, 2_000_000)),
    st.sampled_from(CoverageState),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(A_CLAIM, min_size=1, max_size=20), EDGES, st.floats(1, 3_200_000))
def test_picture_in_one_sweep_equals_that_of_each_cell(
    claims: list[Claim], start: float, lasts: float
) -> None:
    ledger = rows(*claims)
    extent = TimeSpan(start=ledger[0].start, end=ledger[-1].end)
    found = summarize_coverage("dock", ledger, a_span(start, start + lasts), extent)
    drawn = [part for part in coverage_parts(found) if isinstance(part, Text)][:-1]
    assert drawn == cell_by_cell(found)
    assert [bar.spans for bar in drawn] == [bar.spans for bar in cell_by_cell(found)]


class CountedRows(tuple[CoverageInterval, ...]):
    """Intervals that count how often they are looked through."""

    times = 0

    def __iter__(self) -> Iterator[CoverageInterval]:
        CountedRows.times += 1
        return super().__iter__()


def test_cost_of_a_month_is_a_few_sweeps() -> None:
    seconds = timedelta(days=31).total_seconds()
    month = a_span(0, seconds)
    found = summarize_coverage("dock", rows(a_claim(0, seconds, ANALYSED)), month, month)
    counted = replace(found, intervals=CountedRows(found.intervals))
    assert len([*coverage_parts(counted)]) > MAX_DAYS
    assert 1 <= CountedRows.times <= 4

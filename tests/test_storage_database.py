import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, exc
from storage_fixtures import EVERY, START, a_delivery, a_finding, an_incident

from storage import tables
from storage.database import open_database
from storage.errors import PositionMoved, SchemaTooNew
from storage.incidents import IncidentStore
from storage.log import FINDINGS
from storage.records import Delivery, DeliveryState, Incident, IncidentState

BODY = b'{"type":"incident.opened"}'
LATER = START + timedelta(days=1)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_database(f"sqlite:///{tmp_path / 'longwatch.db'}")
    yield opened
    opened.dispose()


@pytest.fixture
def store(engine: Engine) -> IncidentStore:
    return IncidentStore(engine)


def save(store: IncidentStore, incident: Incident, *deliveries: Delivery) -> None:
    with store.transaction() as ledger:
        ledger.save_incident(incident)
        for delivery in deliveries:
            ledger.add_delivery(delivery, BODY)


def states(store: IncidentStore) -> dict[int, DeliveryState]:
    return {delivery.revision: delivery.state for delivery in store.deliveries()}


def test_database_is_durable_and_checks_what_refers_to_what(engine: Engine) -> None:
    with engine.connect() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert pragmas == ["wal", 2, 1, 10_000]


def test_migrations_make_exactly_the_tables_of_the_code(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, tables.metadata) == []
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master")
        made = {row.name: row.sql for row in rows}
    assert "closed_at IS NULL" in made["one_live_incident"]


def test_database_of_a_newer_longwatch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "longwatch.db"
    open_database(f"sqlite:///{path}").dispose()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(SchemaTooNew, match=r"longwatch\.db has schema 9999.*upgrade longwatch"):
        open_database(f"sqlite:///{path}")


@pytest.mark.parametrize("url", ["postgresql://localhost/x", "sqlite://", "sqlite:///:memory:"])
def test_only_sqlite_files_are_opened(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:///PATH"):
        open_database(url)


def test_what_was_there_stays_when_the_database_is_opened_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'longwatch.db'}"
    for expected in (True, False):
        engine = open_database(url)
        with IncidentStore(engine).transaction() as ledger:
            assert ledger.insert_finding(a_finding()) is expected
        engine.dispose()


def test_finding_is_written_once_and_comes_back_as_it_was(store: IncidentStore) -> None:
    first, second = a_finding(0), a_finding(1, score=0.25)
    with store.transaction() as ledger:
        assert ledger.insert_finding(second)
        assert ledger.insert_finding(first)
        assert not ledger.insert_finding(replace(first, score=0.1))
    assert store.findings([second.id, first.id, "unknown"]) == [first, second]
    assert store.counts().findings == 2


@pytest.mark.parametrize("state", IncidentState)
def test_incident_comes_back_as_it_was(store: IncidentStore, state: IncidentState) -> None:
    incident = an_incident(state=state)
    save(store, incident)
    assert store.incident(str(incident.id)) == incident
    assert store.incidents() == [incident]
    with store.transaction() as ledger:
        live = ledger.live_incident("dock", "bag-left", "r1")
        assert live == (incident if incident.closed_at is None else None)
        assert ledger.live_incident("yard", "bag-left", "r1") is None
        assert ledger.live_incident("dock", "bag-left", "r2") is None


def test_incidents_are_listed_newest_first(store: IncidentStore) -> None:
    for n in range(3):
        at = START + n * EVERY
        resolved = an_incident(state=IncidentState.RESOLVED)
        save(store, replace(resolved, id=UUID(int=n << 120), first_seen_at=at, opened_at=at))
    assert [incident.id.int >> 120 for incident in store.incidents(limit=2)] == [2, 1]
    assert store.incidents((IncidentState.OPEN,)) == []


def test_incident_is_found_by_the_beginning_of_its_id(store: IncidentStore) -> None:
    closed = an_incident(state=IncidentState.RESOLVED)
    one, two = (replace(closed, id=UUID(text.ljust(32, "0"))) for text in ("abcd1234", "abcd5678"))
    save(store, one)
    save(store, two)
    assert store.incident("abcd12") == one
    assert store.incident("abcd9") is None
    assert store.incident("%") is None
    with pytest.raises(ValueError, match="more than one incident"):
        store.incident("abcd")


def test_revision_follows_the_stored_one_or_nothing_is_written(store: IncidentStore) -> None:
    save(store, an_incident(1))
    save(store, an_incident(2))
    with pytest.raises(ValueError, match="not at revision 3"):
        save(store, an_incident(4))
    with pytest.raises(ValueError, match="not at revision 1"):
        save(store, an_incident(2))
    assert [incident.revision for incident in store.incidents()] == [2]


def test_rule_has_one_live_incident_on_a_camera(store: IncidentStore) -> None:
    save(store, an_incident())
    with pytest.raises(exc.IntegrityError):
        save(store, replace(an_incident(), id=UUID(int=8)))
    save(store, replace(an_incident(), id=UUID(int=8), camera="yard"))


def test_position_moves_only_from_where_the_reader_stands(store: IncidentStore) -> None:
    with store.transaction() as ledger:
        ledger.advance("alerts", FINDINGS, 0, 1)
    with pytest.raises(PositionMoved, match="alerts of findings no longer stands at 0"):  # noqa: SIM117
        with store.transaction() as ledger:
            ledger.insert_finding(a_finding())
            ledger.advance("alerts", FINDINGS, 0, 1)
    assert store.position("alerts", FINDINGS) == 1
    assert store.position("other", FINDINGS) == 0
    assert store.counts().findings == 0


def test_transaction_that_raises_leaves_nothing(store: IncidentStore) -> None:
    with pytest.raises(KeyError), store.transaction() as ledger:
        ledger.insert_finding(a_finding())
        ledger.save_incident(an_incident())
        ledger.add_delivery(a_delivery(), BODY)
        ledger.advance("alerts", FINDINGS, 0, 1)
        raise KeyError
    counts = store.counts()
    assert (counts.findings, sum(counts.incidents.values())) == (0, 0)
    assert store.deliveries() == []
    assert store.position("alerts", FINDINGS) == 0


def test_transactions_that_read_and_then_write_wait_for_each_other(store: IncidentStore) -> None:
    save(store, an_incident())

    def revise() -> None:
        for _ in range(25):
            with store.transaction() as ledger:
                live = ledger.live_incident("dock", "bag-left", "r1")
                assert live is not None
                ledger.save_incident(replace(live, revision=live.revision + 1))

    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(revise) for _ in range(4)]:
            done.result()
    assert store.incidents()[0].revision == 101


def test_busy_writer_does_not_keep_the_others_out(store: IncidentStore) -> None:
    stop = threading.Event()

    def write_without_a_pause() -> None:
        while not stop.is_set():
            with store.transaction() as ledger:
                ledger.insert_finding(a_finding())
                time.sleep(0.02)

    with ThreadPoolExecutor() as threads:
        busy = threads.submit(write_without_a_pause)
        try:
            began = time.monotonic()
            for number in range(10):
                with store.transaction() as ledger:
                    ledger.insert_finding(a_finding(number))
            assert time.monotonic() - began < 5
        finally:
            stop.set()
        busy.result()


def test_readers_do_not_wait_for_a_writer(store: IncidentStore) -> None:
    save(store, an_incident())
    with store.transaction() as ledger:
        ledger.save_incident(an_incident(2))
        assert [incident.revision for incident in store.incidents()] == [1]


def test_delivery_is_due_at_once_and_then_at_its_time(store: IncidentStore) -> None:
    future = replace(a_delivery(), next_at=LATER)
    save(store, an_incident(), future)
    assert store.next_delivery("soc", START) == future
    assert store.next_delivery("other", START) is None
    assert store.body(future) == BODY
    tried = replace(future, attempts=1)
    store.mark(tried)
    assert store.next_delivery("soc", START) is None
    assert store.next_delivery("soc", LATER) == tried


def test_later_revision_waits_for_the_earlier_one(store: IncidentStore) -> None:
    opened, resolved = replace(a_delivery(1), next_at=LATER), a_delivery(2)
    save(store, an_incident(), opened)
    save(store, an_incident(2), resolved)
    assert store.next_delivery("soc", LATER) == opened
    store.mark(replace(opened, state=DeliveryState.DELIVERED, attempts=1))
    assert store.next_delivery("soc", LATER) == resolved
    assert store.deliveries(opened.incident_id) == store.deliveries()
    assert store.deliveries(UUID(int=1)) == []


def test_other_receivers_do_not_wait(store: IncidentStore) -> None:
    save(store, an_incident(), a_delivery(1, "soc"))
    save(store, an_incident(2), a_delivery(2, "guard"))
    assert store.next_delivery("guard", LATER) == a_delivery(2, "guard")


def test_revision_that_failed_before_the_next_came_is_superseded(store: IncidentStore) -> None:
    save(store, an_incident(), a_delivery(1))
    store.mark(replace(a_delivery(1), attempts=1, next_at=LATER))
    save(store, an_incident(2), a_delivery(2))
    assert states(store) == {1: DeliveryState.SUPERSEDED, 2: DeliveryState.WAITING}


def test_revision_that_fails_after_the_next_came_is_superseded(store: IncidentStore) -> None:
    save(store, an_incident(), a_delivery(1))
    save(store, an_incident(2), a_delivery(2))
    store.mark(replace(a_delivery(1), attempts=1, next_at=LATER))
    assert states(store) == {1: DeliveryState.SUPERSEDED, 2: DeliveryState.WAITING}


@pytest.mark.parametrize(
    ("outcome", "kept"),
    [
        (DeliveryState.DELIVERED, DeliveryState.DELIVERED),
        (DeliveryState.WAITING, DeliveryState.SUPERSEDED),
        (DeliveryState.EXHAUSTED, DeliveryState.SUPERSEDED),
    ],
)
def test_superseded_on_its_way_only_an_arrival_counts(
    store: IncidentStore, outcome: DeliveryState, kept: DeliveryState
) -> None:
    save(store, an_incident(), a_delivery(1))
    store.mark(replace(a_delivery(1), attempts=1))
    save(store, an_incident(2), a_delivery(2))
    store.mark(replace(a_delivery(1), attempts=2, state=outcome))
    assert states(store)[1] == kept


def test_instant_without_a_time_zone_is_refused(store: IncidentStore) -> None:
    naive: Any = datetime(2026, 11, 22)  # noqa: DTZ001
    with pytest.raises(exc.StatementError, match="needs a time zone"):
        save(store, replace(an_incident(), first_seen_at=naive))

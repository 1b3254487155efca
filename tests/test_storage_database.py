import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, delete, exc, insert, inspect, select, text

from kit.storage.fixtures import START, WINDOW_LENGTH, a_delivery, a_finding, an_incident, by_rule
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.audit import trail
from storage.db.audit.hash_chain import chain_entries
from storage.db.database import _alembic_config, engine_for, open_database
from storage.errors import OffsetMoved, SchemaTooNew
from storage.records.deliveries import Delivery, DeliveryState
from storage.records.records import EvidenceMoment, Incident, IncidentState
from storage.records.topics import FINDINGS
from storage.records.wire import incident_fields

BODY = b'{"type":"incidents.firing"}'
LATER = START + timedelta(days=1)
OF_0007 = """
INSERT INTO incidents (id, camera, rule, rule_version, severity, state, first_seen_at,
    last_seen_at, closed_at, evidence, revision)
VALUES (:id, 'dock', :id, 'r1', 'high', 'open', :at, :at, :closed, '[]', 1)
"""
"""An incident as it was written by schema 0007."""


def save(store: AlertStore, incident: Incident, *deliveries: Delivery) -> None:
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(incident)])
        for delivery in deliveries:
            transaction.deliveries.add(delivery, BODY, {incident.id: incident.revision})


def states(store: AlertStore) -> dict[int, DeliveryState]:
    return {delivery.number: delivery.state for delivery in store.deliveries()}


def test_file_is_durable_and_checks_what_refers_to_what(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'longwatch.db'}")
    with engine.connect() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert pragmas == ["wal", 2, 1, 10_000]
    engine.dispose()


@pytest.mark.filterwarnings("ignore:.*expression-based index")
def test_migrations_make_exactly_the_tables_of_the_code(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, tables.metadata) == []
        (live,) = [
            index
            for index in inspect(connection).get_indexes("incidents")
            if index["name"] == "one_live_incident"
        ]
    assert "closed_at IS NULL" in " ".join(map(str, live["dialect_options"].values()))


def test_stills_are_asked_for_of_what_was_live_before(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'longwatch.db'}"
    engine = engine_for(url)
    with engine.begin() as connection:
        command.upgrade(_alembic_config(connection), "0007")
        for id, closed in (("i0", None), ("i1", START), ("i2", START)):
            connection.execute(text(OF_0007), {"id": id, "at": START, "closed": closed})
        connection.exec_driver_sql("INSERT INTO evidence VALUES ('i2', 'at', 'w', 'd', NULL)")
    engine.dispose()
    engine = open_database(url)
    evidence = tables.evidence.c
    rows = select(evidence.incident_id, evidence.moment, evidence.settled_at)
    with engine.connect() as connection:
        found = {(id, moment): at for id, moment, at in connection.execute(rows)}
    engine.dispose()
    assert found.keys() == {*(("i0", moment) for moment in EvidenceMoment), ("i2", "at")}
    assert [key for key, at in found.items() if at is not None] == [("i2", "at")]


def test_trail_of_before_goes_on_and_can_be_removed_under_a_checkpoint(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'longwatch.db'}"
    engine = engine_for(url)
    incident = replace(an_incident(), state=IncidentState.RESOLVED, closed_at=START)
    fields = {"who": "rule", "note": "", "written_at": "", "incident": incident_fields(incident)}
    (link,) = chain_entries(trail.GENESIS, [fields])
    with engine.begin() as connection:
        command.upgrade(_alembic_config(connection), "0010")
        row = asdict(incident) | {"id": str(incident.id), "evidence": list(incident.evidence)}
        connection.execute(insert(tables.incidents).values(row))
        of_it = {"incident_id": str(incident.id), "revision": 1}
        connection.execute(insert(tables.audit).values(asdict(link) | of_it))
    engine.dispose()
    engine = open_database(url)
    store = AlertStore(engine)
    found = store.verify_audit()
    assert (found.problem, found.trail.number, found.actions.number) == (None, 1, 0)
    with store.transaction() as transaction:
        trail.remove_incidents(transaction.connection, [str(incident.id)])
        transaction.connection.execute(delete(tables.incidents))
    assert store.verify_audit(found.trail).problem is None
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_findings_behind_closed_incidents_are_counted(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    url = f"sqlite:///{tmp_path / 'longwatch.db'}"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").create_database("template0")
    engine = engine_for(url)
    evidence = text("UPDATE incidents SET evidence = :evidence WHERE id = :id")
    with engine.begin() as connection:
        command.upgrade(_alembic_config(connection), "0010")
        behind = (("i0", None, ["f1"]), ("i1", START, ["f1", "f2"]), ("i2", START, ["f2"]))
        for id, closed, ids in behind:
            connection.execute(text(OF_0007), {"id": id, "at": START, "closed": closed})
            connection.execute(evidence, {"id": id, "evidence": json.dumps(ids)})
        had = {column["name"] for column in inspect(connection).get_columns("findings")}
        for id in ("f1", "f2", "f3"):
            row = asdict(a_finding()) | {"id": id}
            names = ", ".join(f'"{name}"' for name in row if name in had)
            values = ", ".join(f":{name}" for name in row if name in had)
            connection.execute(text(f"INSERT INTO findings ({names}) VALUES ({values})"), row)
    engine.dispose()
    engine = open_database(url)
    with engine.connect() as connection:
        rows = connection.execute(select(tables.findings.c.id, tables.findings.c.incidents))
        found = {row.id: row.incidents for row in rows}
    engine.dispose()
    assert found == {"f1": 1, "f2": 2, "f3": 0}


def test_database_of_a_newer_longwatch_is_refused(database: str) -> None:
    engine = open_database(database)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(SchemaTooNew, match=r"it has schema 9999.*upgrade longwatch") as raised:
        open_database(database)
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://ada:canary@localhost/x",
        "postgresql://ada:canary@localhost",
        "postgresql+psycopg2://localhost/x",
        "canary",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_other_databases_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match=r"is written as .*postgresql://USER:") as raised:
        open_database(url)
    assert "canary" not in str(raised.value)


def test_what_was_there_stays_when_the_database_is_opened_again(database: str) -> None:
    for expected in (True, False):
        engine = open_database(database)
        with AlertStore(engine).transaction() as transaction:
            assert bool(transaction.insert_findings([a_finding()])) is expected
        engine.dispose()


def test_finding_is_written_once_and_comes_back_as_it_was(store: AlertStore) -> None:
    first, second = a_finding(0), a_finding(1, score=0.25)
    with store.transaction() as transaction:
        assert transaction.insert_findings([second, first, second]) == [second, first]
        assert transaction.insert_findings([replace(first, score=0.1)]) == []
    assert store.findings([second.id, first.id, "unknown"]) == [first, second]
    assert store.counts().findings == 2


@pytest.mark.parametrize("state", IncidentState)
def test_incident_comes_back_as_it_was(store: AlertStore, state: IncidentState) -> None:
    incident = an_incident(state=state)
    save(store, incident)
    assert store.find_incident(str(incident.id)) == incident
    assert store.incidents() == [incident]
    with store.transaction() as transaction:
        assert transaction.latest_incidents({"dock"}) == {("dock", "bag-left", "r1"): incident}
        assert transaction.latest_incidents({"yard"}) == {}


def test_incidents_are_listed_newest_first(store: AlertStore) -> None:
    for n in range(3):
        at = START + n * WINDOW_LENGTH
        resolved = an_incident(state=IncidentState.RESOLVED)
        save(store, replace(resolved, id=UUID(int=n << 120), first_seen_at=at, opened_at=at))
    assert [incident.id.int >> 120 for incident in store.incidents(limit=2)] == [2, 1]
    assert store.incidents((IncidentState.OPEN,)) == []


def test_incident_is_found_by_the_beginning_of_its_id(store: AlertStore) -> None:
    closed = an_incident(state=IncidentState.RESOLVED)
    one, two = (replace(closed, id=UUID(text.ljust(32, "0"))) for text in ("abcd1234", "abcd5678"))
    save(store, one)
    save(store, two)
    assert store.find_incident("abcd12") == one
    assert store.find_incident("abcd9") is None
    assert store.find_incident("%") is None
    with pytest.raises(ValueError, match="more than one incident"):
        store.find_incident("abcd")


def test_revision_follows_the_stored_one_or_nothing_is_written(store: AlertStore) -> None:
    save(store, an_incident(1))
    save(store, an_incident(2))
    with pytest.raises(
        ValueError, match="incident 00000000-0000-0000-0000-000000000007 is not at revision 3"
    ):
        save(store, an_incident(4))
    with pytest.raises(ValueError, match="is not at revision 1"):
        save(store, an_incident(2))
    assert [incident.revision for incident in store.incidents()] == [2]


def test_rule_has_one_live_incident_on_a_camera(store: AlertStore) -> None:
    save(store, an_incident())
    with pytest.raises(exc.IntegrityError):
        save(store, replace(an_incident(), id=UUID(int=8)))
    save(store, replace(an_incident(), id=UUID(int=8), camera="yard"))


def test_position_moves_only_from_where_the_reader_stands(store: AlertStore) -> None:
    with store.transaction() as transaction:
        transaction.advance_offset("alerts", FINDINGS, 0, 1)
    with pytest.raises(OffsetMoved, match="alerts is no longer at offset 0 of findings"):  # noqa: SIM117
        with store.transaction() as transaction:
            transaction.insert_findings([a_finding()])
            transaction.advance_offset("alerts", FINDINGS, 0, 1)
    assert store.committed_offset("alerts", FINDINGS) == 1
    assert store.committed_offset("other", FINDINGS) == 0
    assert store.counts().findings == 0


def test_transaction_that_raises_leaves_nothing(store: AlertStore) -> None:
    with pytest.raises(KeyError), store.transaction() as transaction:
        transaction.insert_findings([a_finding()])
        transaction.save_revisions([by_rule(an_incident())])
        transaction.deliveries.add(a_delivery(), BODY, {})
        transaction.advance_offset("alerts", FINDINGS, 0, 1)
        raise KeyError
    counts = store.counts()
    assert (counts.findings, sum(counts.incidents.values())) == (0, 0)
    assert store.deliveries() == []
    assert store.committed_offset("alerts", FINDINGS) == 0


def test_transactions_that_read_and_then_write_wait_for_each_other(store: AlertStore) -> None:
    save(store, an_incident())

    def revise() -> None:
        for _ in range(25):
            with store.transaction() as transaction:
                live = transaction.latest_incidents({"dock"}).get(("dock", "bag-left", "r1"))
                assert live is not None
                transaction.save_revisions([by_rule(replace(live, revision=live.revision + 1))])

    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(revise) for _ in range(4)]:
            done.result()
    assert store.incidents()[0].revision == 101


def test_busy_writer_does_not_keep_the_others_out(store: AlertStore) -> None:
    stop = threading.Event()

    def write_without_a_pause() -> None:
        while not stop.is_set():
            with store.transaction() as transaction:
                transaction.insert_findings([a_finding()])
                time.sleep(0.02)

    with ThreadPoolExecutor() as threads:
        busy = threads.submit(write_without_a_pause)
        try:
            began = time.monotonic()
            for number in range(10):
                with store.transaction() as transaction:
                    transaction.insert_findings([a_finding(number)])
            assert time.monotonic() - began < 5
        finally:
            stop.set()
        busy.result()


def test_readers_do_not_wait_for_a_writer(store: AlertStore) -> None:
    save(store, an_incident())
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(an_incident(2))])
        assert [incident.revision for incident in store.incidents()] == [1]


def test_delivery_is_due_at_once_and_then_at_its_time(store: AlertStore) -> None:
    future = replace(a_delivery(), next_at=LATER)
    save(store, an_incident(), future)
    assert store.next_delivery("soc", START) == future
    assert store.next_delivery("other", START) is None
    assert store.delivery_body(future) == BODY
    tried = replace(future, attempts=1)
    store.record_outcome(tried)
    assert store.next_delivery("soc", START) is None
    assert store.next_delivery("soc", LATER) == tried


def test_later_message_of_a_group_waits_for_the_earlier_one(store: AlertStore) -> None:
    opened, resolved = replace(a_delivery(1), next_at=LATER), a_delivery(2)
    save(store, an_incident(), opened)
    save(store, an_incident(2), resolved)
    assert store.next_delivery("soc", LATER) == opened
    store.record_outcome(replace(opened, state=DeliveryState.DELIVERED, attempts=1))
    assert store.next_delivery("soc", LATER) == resolved
    assert store.deliveries(an_incident().id) == store.deliveries()
    assert store.deliveries(UUID(int=1)) == []


def test_other_receivers_do_not_wait(store: AlertStore) -> None:
    save(store, an_incident(), a_delivery(1, "soc"))
    save(store, an_incident(2), a_delivery(2, "guard"))
    assert store.next_delivery("guard", LATER) == a_delivery(2, "guard")


def test_message_that_failed_before_the_next_came_is_superseded(store: AlertStore) -> None:
    save(store, an_incident(), a_delivery(1))
    store.record_outcome(replace(a_delivery(1), attempts=1, next_at=LATER))
    save(store, an_incident(2), a_delivery(2))
    assert states(store) == {1: DeliveryState.SUPERSEDED, 2: DeliveryState.WAITING}


def test_message_that_fails_after_the_next_came_is_superseded(store: AlertStore) -> None:
    save(store, an_incident(), a_delivery(1))
    save(store, an_incident(2), a_delivery(2))
    store.record_outcome(replace(a_delivery(1), attempts=1, next_at=LATER))
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
    store: AlertStore, outcome: DeliveryState, kept: DeliveryState
) -> None:
    save(store, an_incident(), a_delivery(1))
    store.record_outcome(replace(a_delivery(1), attempts=1))
    save(store, an_incident(2), a_delivery(2))
    store.record_outcome(replace(a_delivery(1), attempts=2, state=outcome))
    assert states(store)[1] == kept


def test_instant_without_a_time_zone_is_refused(store: AlertStore) -> None:
    naive: Any = datetime(2026, 11, 22)  # noqa: DTZ001
    with pytest.raises(exc.StatementError, match="needs a time zone"):
        save(store, replace(an_incident(), first_seen_at=naive))

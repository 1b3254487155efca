"""A database that loses commits it had acknowledged is noticed, said, and brought up again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select
from structlog.testing import capture_logs

from alerts.evidence.keeper import EvidenceKeeper
from alerts.incidents.changes import IncidentChange, publish
from alerts.incidents.publisher import Publisher
from alerts.intake import cursor
from alerts.intake.cursor import READER
from alerts.rules.lifecycle import note
from kit.alerts.webhook_receiver import publish_all
from kit.storage.fixtures import a_window
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.audit.actions import ActionKind
from storage.db.database import open_database
from storage.log.memory_log import MemoryLog
from storage.records import wire
from storage.records.records import EvidenceMoment
from storage.records.topics import FINDINGS, WINDOWS
from test_alerts_evidence import NOW, AdjustableClock, filmed, judged
from test_alerts_publish import BAG, found, judge, on_the_topic

GoBack = Callable[[], None]


@pytest.fixture(name="engine")
def server_engine(postgres_url: str) -> Iterator[Engine]:
    engine = open_database(postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: Engine) -> AlertStore:
    return AlertStore(engine)


def saved(engine: Engine) -> GoBack:
    """Return what brings the database back to now, as a standby that was behind has it."""
    with engine.begin() as connection:
        before = {
            table: [dict(row._mapping) for row in connection.execute(select(table))]
            for table in tables.metadata.sorted_tables
        }

    def go_back() -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            for table in reversed(before):
                connection.execute(table.delete())
            for table, rows in before.items():
                if rows:
                    connection.execute(insert(table), rows)

    return go_back


def test_findings_that_the_database_lost_are_read_again_though_none_come(
    engine: Engine, store: AlertStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursor, "_CHECK_SECONDS", 0.0)
    log = MemoryLog()
    worker = judge(log, store, BAG)
    found(log, 0, 0.1)
    worker.run_once()
    go_back = saved(engine)
    found(log, 1, 0.9)
    worker.run_once()
    before = store.incidents(), store.counts()
    go_back()
    with capture_logs() as log_lines:
        assert worker.run_once() == 1
    (line,) = [each for each in log_lines if each["log_level"] == "error"]
    assert "lost acknowledged commits" in line["event"]
    assert line["went_back"] == (
        "alerts of findings from 2 to 1, publisher of audit from 2 to 0,"
        " the audit trail from 1 to 0"
    )
    assert "canary" not in str(line)
    assert (store.incidents(), store.counts()) == before
    assert store.verify_audit().problem is None
    (act,) = store.audit_actions(5)
    assert (act.action.kind, act.action.details) == (ActionKind.DATABASE_REWIND, line["went_back"])


def test_move_from_a_lost_position_is_one_line_and_read_again(
    engine: Engine, store: AlertStore
) -> None:
    log = MemoryLog()
    worker = judge(log, store, BAG)
    found(log, 0, 0.1)
    worker.run_once()
    go_back = saved(engine)
    found(log, 1, 0.9)
    worker.run_once()
    go_back()
    found(log, 2, 0.9)
    with capture_logs() as log_lines:
        assert worker._guarded_step() == 0
        assert worker._guarded_step() == 2
    assert len([each for each in log_lines if each["log_level"] == "error"]) == 1
    assert store.committed_offset(READER, FINDINGS) == 3


def test_revisions_behind_a_trail_that_went_back_are_published(
    engine: Engine, store: AlertStore
) -> None:
    log = MemoryLog()
    publisher = Publisher(log, store)
    worker = judge(log, store, BAG)
    found(log, 0)
    worker._judge_waiting()
    publisher.run_once()
    go_back = saved(engine)
    for number in (1, 2):
        found(log, number)
        worker._judge_waiting()
        publisher.run_once()
    go_back()
    assert store.handle_lost_commits()
    (incident,) = store.incidents()
    with store.transaction() as transaction:
        after = note(incident, "ada", NOW)
        publish(transaction, [IncidentChange(before=incident, after=after, who="ada")])
    assert publisher.run_once() > 0
    assert on_the_topic(log)[incident.id][-1] == after.revision


def test_what_was_never_committed_here_is_no_loss(engine: Engine, store: AlertStore) -> None:
    log = MemoryLog()
    judge(log, AlertStore(engine)).run_once()
    found(log, 0)
    worker = judge(log, store, BAG)
    worker.run_once()
    assert store.handle_lost_commits() == []
    with AlertStore(engine).transaction() as transaction:
        transaction.advance_offset(READER, FINDINGS, 1, 5)
    assert store.handle_lost_commits() == []
    assert store.audit_actions(5) == []


def test_stills_of_an_incident_that_is_gone_end_nothing(
    engine: Engine, store: AlertStore, tmp_path: Path
) -> None:
    log = MemoryLog(now=AdjustableClock())
    keeper = EvidenceKeeper(log, store, tmp_path / "evidence")
    filmed(log, 4, 5)
    go_back = saved(engine)
    incident = judged(log, store)
    keeper.run_once(NOW)
    go_back()
    log.append(WINDOWS, "dock", wire.encode_window(a_window(6)))
    keeper.run_once(NOW)
    judge(publish_all(log, store), store).run_once()
    assert judged(log, store, 6).id == incident.id
    keeper.run_once(NOW)
    assert {each.moment for each in store.evidence(incident.id)} == set(EvidenceMoment)

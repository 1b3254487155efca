import json
from dataclasses import replace
from hashlib import sha256
from uuid import UUID

import pytest
from sqlalchemy import Engine, exc, text

from alerts.rules.lifecycle import acknowledge, note, resolve
from kit.storage.fixtures import WINDOW_LENGTH, a_finding, an_incident, by_rule, drop_audit_triggers
from storage.db.alert_store import AlertStore
from storage.db.audit.hash_chain import chain_digest
from storage.db.audit.trail import GENESIS
from storage.db.rows.findings import findings_by_id
from storage.records.records import IncidentRevision

NOW = an_incident().last_seen_at + WINDOW_LENGTH


@pytest.fixture
def store(engine: Engine) -> AlertStore:
    """Two incidents: one opened, acknowledged, noted and resolved; one open."""
    store = AlertStore(engine)
    first = an_incident()
    taken = acknowledge(first, "ada", NOW)
    noted = note(taken, "ada", NOW)
    other = replace(first, id=UUID(int=8), camera="yard")
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(first), by_rule(other)])
        transaction.save_revisions(
            [
                IncidentRevision(incident=taken, who="ada"),
                IncidentRevision(incident=noted, who="ada"),
            ]
        )
    with store.transaction() as transaction:
        transaction.save_revisions(
            [IncidentRevision(incident=resolve(noted, "bob", NOW), who="bob", note="false alarm")]
        )
    return store


def tampered(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        drop_audit_triggers(connection)
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_trail_tells_who_did_what_in_order(store: AlertStore) -> None:
    entries = store.audit_entries(an_incident().id)
    told = [(each["who"], each["note"], each["incident"]["state"]) for each in entries]
    assert told == [
        ("rule", "", "open"),
        ("ada", "", "acknowledged"),
        ("ada", "", "acknowledged"),
        ("bob", "false alarm", "resolved"),
    ]
    assert [each["incident"]["revision"] for each in entries] == [1, 2, 3, 4]


def test_untouched_trail_holds_and_its_digest_can_be_reckoned_by_others(
    store: AlertStore, engine: Engine
) -> None:
    found = store.verify_audit()
    assert (found.trail.number, found.problem) == (5, None)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT entry FROM audit ORDER BY number"))
        digest = sha256(b"longwatch audit trail").hexdigest()
        for row in rows:
            digest = sha256(f"{digest}\n{row.entry}".encode()).hexdigest()
    assert found.trail.digest == digest


def test_empty_trail_holds(engine: Engine) -> None:
    assert AlertStore(engine).verify_audit().trail.number == 0


def test_trail_answers_for_the_zone_that_a_finding_is_about(engine: Engine) -> None:
    finding = replace(a_finding(), zone="yard")
    with (store := AlertStore(engine)).transaction() as transaction:
        transaction.insert_findings([finding])
        transaction.save_revisions([by_rule(replace(an_incident(), evidence=(finding.id,)))])
    with engine.connect() as connection:
        assert findings_by_id(connection, [finding.id]) == {finding.id: finding}
    assert store.verify_audit().problem is None
    with engine.begin() as connection:
        connection.execute(text("UPDATE findings SET zone = 'gate'"))
    assert "finding" in str(store.verify_audit().problem)


@pytest.mark.parametrize("statement", ["UPDATE audit SET entry = '{}'", "DELETE FROM audit"])
def test_database_takes_no_change_of_the_trail(
    store: AlertStore, engine: Engine, statement: str
) -> None:
    with pytest.raises(exc.DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text(statement))
    assert store.verify_audit().problem is None


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE audit SET entry = replace(entry, 'bob', 'eve')", "entry 5 was changed"),
        ("UPDATE audit SET digest = 'beef' WHERE number = 2", "entry 2"),
        ("DELETE FROM audit WHERE number = 3", "entry 3 is missing"),
        ("DELETE FROM audit WHERE number = 1", "entry 1 is missing"),
        ("DELETE FROM audit WHERE number = 5", "not as its last entry has"),
        ("DELETE FROM audit", None),
        ("UPDATE incidents SET severity = 'low' WHERE camera = 'dock'", "not as its last entry"),
        ("UPDATE incidents SET closed_because = 'rule'", "not as its last entry"),
        ("UPDATE audit SET revision = 9 WHERE number = 4", "another incident"),
        (f"UPDATE audit SET incident_id = '{UUID(int=8)}' WHERE number = 1", "another incident"),
    ],
)
def test_what_was_changed_behind_its_back_is_found(
    store: AlertStore, engine: Engine, statement: str, problem: str | None
) -> None:
    anchor = store.verify_audit().trail
    tampered(engine, statement)
    if problem is not None:
        assert problem in (store.verify_audit().problem or "")
    assert store.verify_audit(anchor).problem is not None


def test_trail_that_was_written_anew_is_found_against_a_kept_digest(
    store: AlertStore, engine: Engine
) -> None:
    anchor = store.verify_audit().trail
    with engine.begin() as connection:
        rows = connection.exec_driver_sql("SELECT entry FROM audit ORDER BY number").fetchall()
    digest, statements = GENESIS.digest, []
    for number, (entry,) in enumerate(rows, start=1):
        forged = json.dumps(json.loads(entry) | {"note": "nothing to see"})
        digest = chain_digest(digest, forged)
        statements.append(
            f"UPDATE audit SET entry = '{forged}', digest = '{digest}' WHERE number = {number}"
        )
    tampered(engine, *statements)
    assert store.verify_audit().problem is None
    problem = store.verify_audit(anchor).problem
    assert problem == "entry 5 is not the one that was verified before"


def test_entry_that_was_changed_and_sealed_anew_breaks_the_next_one(
    store: AlertStore, engine: Engine
) -> None:
    with engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT entry, digest FROM audit ORDER BY number")
        (_, before), (entry, _) = found.fetchall()[:2]
    forged = entry.replace('"who":"rule"', '"who":"eve"')
    digest = chain_digest(before, forged)
    tampered(engine, f"UPDATE audit SET entry = '{forged}', digest = '{digest}' WHERE number = 2")
    assert store.verify_audit().problem == "entry 3 was changed, or one before it"


def test_two_writers_leave_one_chain(engine: Engine) -> None:
    one, other = AlertStore(engine), AlertStore(engine)
    with one.transaction() as transaction:
        transaction.save_revisions([by_rule(an_incident())])
    for n, store in enumerate((one, other) * 3, start=2):
        with store.transaction() as transaction:
            before = transaction.incident(an_incident().id)
            transaction.save_revisions(
                [IncidentRevision(incident=note(before, "ada", NOW), who="ada", note=str(n))]
            )
    assert (one.verify_audit().trail.number, one.verify_audit().problem) == (7, None)

import json
from dataclasses import replace
from hashlib import sha256
from uuid import UUID

import pytest
from sqlalchemy import Engine, exc, text
from storage_fixtures import EVERY, a_finding, an_incident, by_rule, unprotect

from alerts.incidents import acknowledge, note, resolve
from storage.audit import BEGINNING
from storage.chain import seal
from storage.findings import findings_by_id
from storage.incidents import IncidentStore
from storage.records import Revision

NOW = an_incident().last_seen_at + EVERY


@pytest.fixture
def store(engine: Engine) -> IncidentStore:
    """Two incidents: one opened, acknowledged, noted and resolved; one open."""
    store = IncidentStore(engine)
    first = an_incident()
    taken = acknowledge(first, "ada", NOW)
    noted = note(taken, "ada", NOW)
    other = replace(first, id=UUID(int=8), camera="yard")
    with store.transaction() as ledger:
        ledger.save([by_rule(first), by_rule(other)])
        ledger.save([Revision(incident=taken, who="ada"), Revision(incident=noted, who="ada")])
    with store.transaction() as ledger:
        ledger.save([Revision(incident=resolve(noted, "bob", NOW), who="bob", note="false alarm")])
    return store


def tampered(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        unprotect(connection)
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_trail_tells_who_did_what_in_order(store: IncidentStore) -> None:
    entries = store.trail(an_incident().id)
    told = [(each["who"], each["note"], each["incident"]["state"]) for each in entries]
    assert told == [
        ("rule", "", "open"),
        ("ada", "", "acknowledged"),
        ("ada", "", "acknowledged"),
        ("bob", "false alarm", "resolved"),
    ]
    assert [each["incident"]["revision"] for each in entries] == [1, 2, 3, 4]


def test_untouched_trail_holds_and_its_digest_can_be_reckoned_by_others(
    store: IncidentStore, engine: Engine
) -> None:
    found = store.verify()
    assert (found.trail.number, found.problem) == (5, None)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT entry FROM audit ORDER BY number"))
        digest = sha256(b"longwatch audit trail").hexdigest()
        for row in rows:
            digest = sha256(f"{digest}\n{row.entry}".encode()).hexdigest()
    assert found.trail.digest == digest


def test_empty_trail_holds(engine: Engine) -> None:
    assert IncidentStore(engine).verify().trail.number == 0


def test_trail_answers_for_the_zone_that_a_finding_is_about(engine: Engine) -> None:
    finding = replace(a_finding(), zone="yard")
    with (store := IncidentStore(engine)).transaction() as ledger:
        ledger.insert_findings([finding])
        ledger.save([by_rule(replace(an_incident(), evidence=(finding.id,)))])
    with engine.connect() as connection:
        assert findings_by_id(connection, [finding.id]) == {finding.id: finding}
    assert store.verify().problem is None
    with engine.begin() as connection:
        connection.execute(text("UPDATE findings SET zone = 'gate'"))
    assert "finding" in str(store.verify().problem)


@pytest.mark.parametrize("statement", ["UPDATE audit SET entry = '{}'", "DELETE FROM audit"])
def test_database_takes_no_change_of_the_trail(
    store: IncidentStore, engine: Engine, statement: str
) -> None:
    with pytest.raises(exc.DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text(statement))
    assert store.verify().problem is None


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
    store: IncidentStore, engine: Engine, statement: str, problem: str | None
) -> None:
    anchor = store.verify().trail
    tampered(engine, statement)
    if problem is not None:
        assert problem in (store.verify().problem or "")
    assert store.verify(anchor).problem is not None


def test_trail_that_was_written_anew_is_found_against_a_kept_digest(
    store: IncidentStore, engine: Engine
) -> None:
    anchor = store.verify().trail
    with engine.begin() as connection:
        rows = connection.exec_driver_sql("SELECT entry FROM audit ORDER BY number").fetchall()
    digest, statements = BEGINNING.digest, []
    for number, (entry,) in enumerate(rows, start=1):
        forged = json.dumps(json.loads(entry) | {"note": "nothing to see"})
        digest = seal(digest, forged)
        statements.append(
            f"UPDATE audit SET entry = '{forged}', digest = '{digest}' WHERE number = {number}"
        )
    tampered(engine, *statements)
    assert store.verify().problem is None
    problem = store.verify(anchor).problem
    assert problem == "entry 5 is not the one that was verified before"


def test_entry_that_was_changed_and_sealed_anew_breaks_the_next_one(
    store: IncidentStore, engine: Engine
) -> None:
    with engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT entry, digest FROM audit ORDER BY number")
        (_, before), (entry, _) = found.fetchall()[:2]
    forged = entry.replace('"who":"rule"', '"who":"eve"')
    digest = seal(before, forged)
    tampered(engine, f"UPDATE audit SET entry = '{forged}', digest = '{digest}' WHERE number = 2")
    assert store.verify().problem == "entry 3 was changed, or one before it"


def test_two_writers_leave_one_chain(engine: Engine) -> None:
    one, other = IncidentStore(engine), IncidentStore(engine)
    with one.transaction() as ledger:
        ledger.save([by_rule(an_incident())])
    for n, store in enumerate((one, other) * 3, start=2):
        with store.transaction() as ledger:
            before = ledger.incident(an_incident().id)
            ledger.save([Revision(incident=note(before, "ada", NOW), who="ada", note=str(n))])
    assert (one.verify().trail.number, one.verify().problem) == (7, None)

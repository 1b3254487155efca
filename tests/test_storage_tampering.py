"""What somebody did to the trail, the acts, incidents and findings behind our back is found."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, delete, insert, select, update

from alerts.rules.lifecycle import note
from kit.storage.fixtures import (
    BY_ADA,
    START,
    WINDOW_LENGTH,
    a_delivery,
    a_finding,
    an_incident,
    drop_audit_triggers,
)
from storage.db import tables as t
from storage.db.alert_store import AlertStore
from storage.db.audit import actions, trail
from storage.db.audit.actions import ActionKind, ActionOrigin
from storage.db.audit.hash_chain import ChainCheckpoint, canonical_json, chain_digest
from storage.db.database import open_database
from storage.db.outbox import Outbox, save_receiver_status
from storage.db.silences import SilenceRow, SilenceStore
from storage.errors import StorageUnfit
from storage.records.deliveries import DeliveryState, ReceiverState, ReceiverStatus
from storage.records.records import Incident, IncidentRevision, IncidentState

NOW = START + 4 * WINDOW_LENGTH
DOCK, YARD, GATE = (
    replace(
        an_incident(), id=UUID(int=n), camera=camera, evidence=(a_finding(n, camera=camera).id,)
    )
    for n, camera in enumerate(("dock", "yard", "gate"), start=1)
)


@pytest.fixture
def store(engine: Engine) -> AlertStore:
    """Entries 1 to 8, of which 3 and 4, of one incident, were removed; acts 1 to 3."""
    store = AlertStore(engine)
    with store.transaction() as transaction:
        transaction.insert_findings([a_finding(n, camera=c) for n, c in enumerate("xyz")])
        transaction.insert_findings(
            [a_finding(1, camera="dock"), a_finding(2, camera="yard"), a_finding(3, camera="gate")]
        )
        transaction.save_revisions([by_rule(DOCK), by_rule(YARD), by_rule(GATE)])
    with store.transaction() as transaction:
        transaction.save_revisions([noted(GATE, 2), noted(DOCK, 2), noted(DOCK, 3), noted(YARD, 2)])
        transaction.save_revisions([noted(YARD, 3)])
    SilenceStore(store).add(silence(), ActionOrigin.CLI)
    with store.transaction() as transaction:
        trail.remove_incidents(transaction.connection, [str(GATE.id)])
        transaction.connection.execute(delete(t.incidents).where(t.incidents.c.id == str(GATE.id)))
    assert SilenceStore(store).expire(silence().id, START, BY_ADA, "done")
    return store


def by_rule(incident: Incident) -> IncidentRevision:
    return IncidentRevision(incident=incident, who="rule")


def noted(incident: Incident, revision: int) -> IncidentRevision:
    return IncidentRevision(
        incident=replace(note(incident, "ada", NOW), revision=revision), who="ada"
    )


def silence(n: int = 5) -> SilenceRow:
    return SilenceRow(
        id=UUID(int=n),
        matchers=("camera=dock",),
        start=START,
        end=START + timedelta(hours=1),
        who="ada",
        comment="works",
    )


def the_checkpoint(connection: Connection) -> ChainCheckpoint:
    return ChainCheckpoint(**connection.execute(select(t.checkpoints)).one()._asdict())


def swap(connection: Connection) -> None:
    """Let entries 5 and 6 stand in each other's place, each with its own digest."""
    five, six = connection.execute(select(t.audit).where(t.audit.c.number.in_([5, 6]))).all()
    for number, other in ((5, six), (6, five)):
        values = {k: v for k, v in other._asdict().items() if k != "number"}
        connection.execute(update(t.audit).where(t.audit.c.number == number).values(values))


def insert_entry(connection: Connection) -> None:
    row = connection.execute(select(t.audit).where(t.audit.c.number == 8)).one()
    connection.execute(insert(t.audit).values(row._asdict() | {"number": 9}))


def insert_incident(connection: Connection) -> None:
    row = connection.execute(select(t.incidents).where(t.incidents.c.id == str(DOCK.id))).one()
    connection.execute(
        insert(t.incidents).values(row._asdict() | {"id": str(UUID(int=99)), "camera": "attic"})
    )


def remove_with_a_forged_checkpoint(connection: Connection) -> None:
    """Do what `audit.forget` does to entry 2, but write no act."""
    digests = select(t.audit.c.digest).where(t.audit.c.number.in_([1, 2]))
    before, after = connection.execute(digests.order_by(t.audit.c.number)).scalars()
    forged = ChainCheckpoint(first=2, last=2, before=before, after=after, act=2)
    connection.execute(delete(t.audit).where(t.audit.c.number == 2))
    connection.execute(insert(t.checkpoints).values(asdict(forged)))


def widen(connection: Connection) -> None:
    """Let the checkpoint cover entry 5, too."""
    after = connection.execute(select(t.audit.c.digest).where(t.audit.c.number == 5)).scalar_one()
    connection.execute(delete(t.audit).where(t.audit.c.number == 5))
    connection.execute(update(t.checkpoints).values(last=5, after=after))


def rewrite_what_is_before(connection: Connection) -> None:
    """Change entry 1, seal 1 and 2 anew, and fit the checkpoint to them."""
    digest = trail.GENESIS.digest
    for row in connection.execute(
        select(t.audit).where(t.audit.c.number < 3).order_by(t.audit.c.number)
    ).all():
        entry = row.entry.replace('"who":"rule"', '"who":"eve"')
        digest = chain_digest(digest, entry)
        changed = update(t.audit).where(t.audit.c.number == row.number)
        connection.execute(changed.values(entry=entry, digest=digest))
    connection.execute(update(t.checkpoints).values(before=digest))


def seal_nonsense(connection: Connection) -> None:
    row = connection.execute(select(t.audit).where(t.audit.c.number == 7)).one()
    entry = canonical_json({"number": 8})
    changed = update(t.audit).where(t.audit.c.number == 8)
    connection.execute(changed.values(entry=entry, digest=chain_digest(row.digest, entry)))


def seal_a_nonsense_act(connection: Connection) -> None:
    before = connection.execute(select(t.acts.c.digest).where(t.acts.c.number == 2)).scalar_one()
    changed = update(t.acts).where(t.acts.c.number == 3)
    connection.execute(changed.values(entry="[]", digest=chain_digest(before, "[]")))


def sql(statement: str) -> Callable[[Connection], None]:
    def run(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return run


TAMPERING = {
    "entries swapped": (swap, "entry 5 was changed"),
    "entry inserted": (insert_entry, "entry 9 was changed"),
    "entry that is none": (seal_nonsense, "entry 8 is no entry"),
    "entry removed": (sql("DELETE FROM audit WHERE number = 6"), "entry 6 is missing"),
    "incident without entry": (insert_incident, f"incident {UUID(int=99)} has no entry"),
    "scores zeroed": (sql("UPDATE findings SET score = 0"), f"as incident {DOCK.id} had it"),
    "answers turned": (sql("UPDATE findings SET answer = 'no'"), f"as incident {DOCK.id} had it"),
    "finding removed": (sql("DELETE FROM findings"), f"behind incident {DOCK.id} is gone"),
    "state changed": (sql("UPDATE incidents SET severity = 'low'"), "not as its last entry has it"),
    "forged checkpoint": (remove_with_a_forged_checkpoint, "of 2 to 2 is not that of its act"),
    "checkpoint widened": (widen, "of 3 to 5 is not that of its act"),
    "checkpoint moved": (rewrite_what_is_before, "of 3 to 4 is not that of its act"),
    "checkpoint of no act": (sql("UPDATE checkpoints SET act = 9"), "1 checkpoints are sealed by"),
    "checkpoint removed": (sql("DELETE FROM checkpoints"), "entry 3 is missing"),
    "act removed": (sql("DELETE FROM acts WHERE number = 1"), "acts: entry 1 is missing"),
    "acts removed": (sql("DELETE FROM acts"), "acts: 1 checkpoints are sealed by no act"),
    "act changed": (sql("UPDATE acts SET entry = replace(entry, 'ada', 'eve')"), "acts: entry 1"),
    "act that is none": (seal_a_nonsense_act, "acts: an entry from 1 to 3 is not an act"),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_found(store: AlertStore, engine: Engine, name: str) -> None:
    tamper, problem = TAMPERING[name]
    before = store.verify_audit()
    assert (before.problem, before.trail.number, before.actions.number) == (None, 8, 3)
    with engine.begin() as connection:
        drop_audit_triggers(connection)
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        tamper(connection)
    assert problem in (store.verify_audit().problem or "")


def test_last_act_that_was_removed_is_found_against_an_anchor(
    store: AlertStore, engine: Engine
) -> None:
    before = store.verify_audit()
    with engine.begin() as connection:
        drop_audit_triggers(connection)
        connection.exec_driver_sql("DELETE FROM acts WHERE number = 3")
    assert store.verify_audit().problem is None
    problem = store.verify_audit(before.trail, before.actions).problem
    assert problem == "acts: the entries after 2 are gone: 3 were verified before"


def test_finding_that_was_forgotten_is_no_fault_once_no_incident_needs_it(
    store: AlertStore, engine: Engine
) -> None:
    with store.transaction() as transaction:
        less = replace(note(transaction.incident(DOCK.id), "ada", NOW), evidence=())
        transaction.save_revisions([IncidentRevision(incident=less, who="ada")])
        ids = t.findings.c.id.in_(DOCK.evidence)
        transaction.connection.execute(delete(t.findings).where(ids))
    assert store.verify_audit().problem is None


def test_each_finding_is_sealed_once_with_the_revision_that_added_it(store: AlertStore) -> None:
    sealed = [list(each.get("findings", {})) for each in store.audit_entries(DOCK.id)]
    assert sealed == [[a_finding(1, camera="dock").id], [], []]


def test_acts_tell_who_did_what_how_and_why(store: AlertStore) -> None:
    outbox = Outbox(store)
    with store.transaction() as transaction:
        for n, state in enumerate((DeliveryState.EXHAUSTED, DeliveryState.REFUSED), start=1):
            transaction.deliveries.add(a_delivery(n), b"{}", {DOCK.id: 1})
            transaction.deliveries.record_outcome(replace(a_delivery(n), state=state))
        gone = ReceiverStatus(name="soc", state=ReceiverState.DISABLED, reason="410", since=START)
        save_receiver_status(transaction, gone)
    (first,) = outbox.deliveries((DeliveryState.EXHAUSTED,))
    assert outbox.enable_receiver("soc", NOW, BY_ADA, "it is back")
    assert outbox.requeue(first, NOW, BY_ADA)
    assert outbox.requeue_undelivered("soc", START, NOW, BY_ADA) == 1
    told = [
        (e.action.kind, e.action.object, e.action.details, e.action.note)
        for e in store.audit_actions(6)
    ]
    assert told == [
        (
            ActionKind.RECEIVER_REPLAY,
            "soc",
            f"undelivered since {START.isoformat()}, 1 replayed",
            "",
        ),
        (ActionKind.DELIVERY_REPLAY, str(first.id), "exhausted to soc, 1 replayed", ""),
        (ActionKind.RECEIVER_ENABLE, "soc", "", "it is back"),
        (ActionKind.SILENCE_EXPIRE, str(silence().id), "camera=dock", "done"),
        (ActionKind.TRAIL_FORGET, "3-4", "2 entries of 1 incidents", "older than it is kept"),
        (
            ActionKind.SILENCE_ADD,
            str(silence().id),
            f"camera=dock from {START.isoformat()} until {silence().end.isoformat()}",
            "works",
        ),
    ]
    assert {e.action.actor for e in store.audit_actions(6)} == {BY_ADA, trail.RETENTION_ACTOR}
    assert [e.number for e in store.audit_actions(2)] == [6, 5]


def test_what_changed_nothing_is_no_act(store: AlertStore) -> None:
    outbox = Outbox(store)
    assert not SilenceStore(store).expire(silence().id, NOW, BY_ADA)
    assert not outbox.enable_receiver("soc", NOW, BY_ADA)
    assert not outbox.requeue(a_delivery(), NOW, BY_ADA)
    assert outbox.requeue_undelivered("soc", None, NOW, BY_ADA) == 0
    assert store.verify_audit().actions.number == 3


def test_act_and_what_it_tells_of_are_kept_together_or_not_at_all(
    store: AlertStore, engine: Engine
) -> None:
    with pytest.raises(RuntimeError), store.transaction() as transaction:
        act = actions.AuditAction(actor=BY_ADA, kind=ActionKind.INCIDENT_NOTE, object=str(DOCK.id))
        actions.append_action(transaction.connection, act)
        raise RuntimeError
    assert store.verify_audit().actions.number == 3
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE acts RENAME TO elsewhere")
    with pytest.raises(StorageUnfit):
        SilenceStore(store).add(silence(6), ActionOrigin.CLI)
    assert [each.id for each in SilenceStore(store).all()] == [silence().id]


def test_writers_at_once_do_not_fork_the_chains(store: AlertStore, database: str) -> None:
    engines = [open_database(database) for _ in range(3)]

    def write(n: int) -> None:
        mine = AlertStore(engines[n])
        for round_ in range(8):
            id = UUID(int=1000 + 100 * n + round_)
            begun = replace(
                DOCK, id=id, camera=f"c{id.int}", state=IncidentState.RESOLVED, closed_at=NOW
            )
            with mine.transaction() as transaction:
                transaction.save_revisions([by_rule(begun)])
            SilenceStore(mine).add(silence(2000 + 100 * n + round_), ActionOrigin.CONSOLE)
            with mine.transaction() as transaction:
                if round_ % 2:
                    trail.remove_incidents(transaction.connection, [str(id)])
                    gone = t.incidents.c.id == str(id)
                    transaction.connection.execute(delete(t.incidents).where(gone))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(3)))
    for engine in engines:
        engine.dispose()
    found = store.verify_audit()
    assert (found.problem, found.trail.number, found.actions.number) == (None, 8 + 24, 3 + 24 + 12)
    assert found.removed == 2 + 12

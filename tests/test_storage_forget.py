"""What retention removes from the audit trail, and what is still proven of what is left."""

from collections.abc import Collection
from dataclasses import replace
from random import Random
from uuid import UUID

import pytest
from sqlalchemy import Engine, delete, exc, func, select

from alerts.rules.lifecycle import note
from kit.storage.fixtures import WINDOW_LENGTH, an_incident, by_rule
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.audit import actions, trail
from storage.db.audit.actions import ActionKind
from storage.db.audit.hash_chain import ChainAnchor, ChainCheckpoint
from storage.records.records import Incident, IncidentRevision

NOW = an_incident().last_seen_at + WINDOW_LENGTH


def incident(n: int) -> Incident:
    return replace(an_incident(), id=UUID(int=n), camera=f"dock-{n}")


def write(store: AlertStore, *numbers: int) -> None:
    """Write an entry about each of these incidents, in order: its first, or a note on it."""
    for n in numbers:
        with store.transaction() as transaction:
            table = tables.incidents
            there = select(table.c.id).where(table.c.id == str(UUID(int=n)))
            if transaction.connection.execute(there).one_or_none() is None:
                transaction.save_revisions([by_rule(incident(n))])
            else:
                noted = note(transaction.incident(UUID(int=n)), "ada", NOW)
                transaction.save_revisions([IncidentRevision(incident=noted, who="ada")])


def forget(store: AlertStore, numbers: Collection[int]) -> None:
    ids = [str(UUID(int=n)) for n in numbers]
    with store.transaction() as transaction:
        trail.remove_incidents(transaction.connection, ids)
        transaction.connection.execute(
            delete(tables.incidents).where(tables.incidents.c.id.in_(ids))
        )


def checkpoints(engine: Engine) -> list[ChainCheckpoint]:
    query = select(tables.checkpoints).order_by(tables.checkpoints.c.first)
    with engine.connect() as connection:
        return [ChainCheckpoint(**row._asdict()) for row in connection.execute(query)]


def runs(engine: Engine) -> list[tuple[int, int]]:
    return [(each.first, each.last) for each in checkpoints(engine)]


def test_entries_that_retention_removes_leave_one_checkpoint_for_each_run(
    store: AlertStore, engine: Engine
) -> None:
    write(store, 1, 2, 1, 2, 3, 3, 1)
    before = store.verify_audit()
    forget(store, [2])
    assert runs(engine) == [(2, 2), (4, 4)]
    found = store.verify_audit(before.trail, before.actions)
    assert (found.problem, found.removed, found.trail) == (None, 2, before.trail)
    (act,) = store.audit_actions(10)
    assert (act.action.kind, act.action.object) == (ActionKind.TRAIL_FORGET, "2-4")
    assert (act.action.actor.who, act.action.details) == ("retention", "2 entries of 1 incidents")


def test_neighbouring_checkpoints_merge(store: AlertStore, engine: Engine) -> None:
    write(store, *range(1, 10))
    for n in (2, 4, 3, 8):
        forget(store, [n])
    assert runs(engine) == [(2, 4), (8, 8)]
    forget(store, [5, 6, 7, 9])
    assert runs(engine) == [(2, 9)]
    assert store.verify_audit().problem is None
    forget(store, [1])
    assert runs(engine) == [(1, 9)]
    assert store.verify_audit().problem is None


def test_chain_goes_on_after_its_last_entry_was_removed(store: AlertStore, engine: Engine) -> None:
    write(store, 1, 2)
    before = store.verify_audit().trail
    forget(store, [1, 2])
    assert store.verify_audit(before).problem is None
    write(store, 3)
    found = store.verify_audit(before)
    assert (found.problem, found.trail.number, found.removed) == (None, 3, 2)


def test_anchor_at_the_end_of_a_checkpoint_verifies_and_one_within_says_that_it_is_gone(
    store: AlertStore, engine: Engine
) -> None:
    write(store, 1)
    first = store.verify_audit().trail
    write(store, 2)
    second = store.verify_audit().trail
    write(store, 3)
    forget(store, [1, 2])
    assert (store.verify_audit(second).problem, store.verify_audit(second).removed_anchor) == (
        None,
        None,
    )
    within = store.verify_audit(first)
    assert within.problem is None
    assert within.removed_anchor == "entry 1 was removed by retention with entries 1 to 2: act 1"
    forged = store.verify_audit(ChainAnchor(number=2, digest="0" * 64))
    assert forged.problem == "entry 2 is not the one that was verified before"


def test_nothing_is_written_where_nothing_is_removed(store: AlertStore, engine: Engine) -> None:
    forget(store, [])
    forget(store, [77])
    assert (runs(engine), store.audit_actions(10)) == ([], [])


def test_database_lets_no_entry_go_without_a_checkpoint(store: AlertStore, engine: Engine) -> None:
    write(store, 1, 2, 3)
    forget(store, [2])
    for number in (1, 3):
        with pytest.raises(exc.DBAPIError, match="append-only"), engine.begin() as connection:
            connection.exec_driver_sql(f"DELETE FROM audit WHERE number = {number}")
    assert store.verify_audit().problem is None


def test_whatever_is_removed_in_whatever_order_the_rest_verifies(
    store: AlertStore, engine: Engine
) -> None:
    rng = Random(7)
    write(store, *(rng.randrange(1, 13) for _ in range(40)))
    anchor = store.verify_audit()
    left = list(range(1, 13))
    rng.shuffle(left)
    while left:
        forget(store, [left.pop() for _ in range(min(len(left), 3))])
        found = store.verify_audit(anchor.trail)
        assert (found.problem, found.removed_anchor) == (None, None)
        with engine.connect() as connection:
            entries = connection.execute(select(func.count()).select_from(tables.audit)).scalar()
        assert found.removed == 40 - (entries or 0)
        assert len(runs(engine)) <= (entries or 0) + 1
    assert runs(engine) == [(1, 40)]


def test_acts_are_append_only(store: AlertStore, engine: Engine) -> None:
    write(store, 1)
    forget(store, [1])
    for statement in ("UPDATE acts SET entry = '{}'", "DELETE FROM acts"):
        with pytest.raises(exc.DBAPIError, match="append-only"), engine.begin() as connection:
            connection.exec_driver_sql(statement)
    assert store.verify_audit(None, store.verify_audit().actions).problem is None
    assert actions.GENESIS.digest != trail.GENESIS.digest

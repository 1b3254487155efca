"""What retention removes from the audit trail, and what is still proven of what is left."""

from collections.abc import Collection
from dataclasses import replace
from random import Random
from uuid import UUID

import pytest
from sqlalchemy import Engine, delete, exc, func, select
from storage_fixtures import EVERY, an_incident, by_rule

from alerts.incidents import note
from storage import acts, audit, tables
from storage.acts import ActKind
from storage.chain import Anchor, Checkpoint
from storage.incidents import IncidentStore
from storage.records import Incident, Revision

NOW = an_incident().last_seen_at + EVERY


def incident(n: int) -> Incident:
    return replace(an_incident(), id=UUID(int=n), camera=f"dock-{n}")


def write(store: IncidentStore, *numbers: int) -> None:
    """Write an entry about each of these incidents, in order: its first, or a note on it."""
    for n in numbers:
        with store.transaction() as ledger:
            table = tables.incidents
            there = select(table.c.id).where(table.c.id == str(UUID(int=n)))
            if ledger.connection.execute(there).one_or_none() is None:
                ledger.save([by_rule(incident(n))])
            else:
                noted = note(ledger.incident(UUID(int=n)), "ada", NOW)
                ledger.save([Revision(incident=noted, who="ada")])


def forget(store: IncidentStore, numbers: Collection[int]) -> None:
    ids = [str(UUID(int=n)) for n in numbers]
    with store.transaction() as ledger:
        audit.forget(ledger.connection, ids)
        ledger.connection.execute(delete(tables.incidents).where(tables.incidents.c.id.in_(ids)))


def checkpoints(engine: Engine) -> list[Checkpoint]:
    query = select(tables.checkpoints).order_by(tables.checkpoints.c.first)
    with engine.connect() as connection:
        return [Checkpoint(**row._asdict()) for row in connection.execute(query)]


def runs(engine: Engine) -> list[tuple[int, int]]:
    return [(each.first, each.last) for each in checkpoints(engine)]


def test_entries_that_retention_removes_leave_one_checkpoint_for_each_run(
    store: IncidentStore, engine: Engine
) -> None:
    write(store, 1, 2, 1, 2, 3, 3, 1)
    before = store.verify()
    forget(store, [2])
    assert runs(engine) == [(2, 2), (4, 4)]
    found = store.verify(before.trail, before.acts)
    assert (found.problem, found.forgotten, found.trail) == (None, 2, before.trail)
    (act,) = store.acts(10)
    assert (act.act.kind, act.act.object) == (ActKind.TRAIL_FORGET, "2-4")
    assert (act.act.actor.who, act.act.details) == ("retention", "2 entries of 1 incidents")


def test_neighbouring_checkpoints_merge(store: IncidentStore, engine: Engine) -> None:
    write(store, *range(1, 10))
    for n in (2, 4, 3, 8):
        forget(store, [n])
    assert runs(engine) == [(2, 4), (8, 8)]
    forget(store, [5, 6, 7, 9])
    assert runs(engine) == [(2, 9)]
    assert store.verify().problem is None
    forget(store, [1])
    assert runs(engine) == [(1, 9)]
    assert store.verify().problem is None


def test_chain_goes_on_after_its_last_entry_was_removed(
    store: IncidentStore, engine: Engine
) -> None:
    write(store, 1, 2)
    before = store.verify().trail
    forget(store, [1, 2])
    assert store.verify(before).problem is None
    write(store, 3)
    found = store.verify(before)
    assert (found.problem, found.trail.number, found.forgotten) == (None, 3, 2)


def test_anchor_at_the_end_of_a_checkpoint_verifies_and_one_within_says_that_it_is_gone(
    store: IncidentStore, engine: Engine
) -> None:
    write(store, 1)
    first = store.verify().trail
    write(store, 2)
    second = store.verify().trail
    write(store, 3)
    forget(store, [1, 2])
    assert (store.verify(second).problem, store.verify(second).lost) == (None, None)
    within = store.verify(first)
    assert within.problem is None
    assert within.lost == "entry 1 was removed by retention with entries 1 to 2: act 1"
    forged = store.verify(Anchor(number=2, digest="0" * 64))
    assert forged.problem == "entry 2 is not the one that was verified before"


def test_nothing_is_written_where_nothing_is_removed(store: IncidentStore, engine: Engine) -> None:
    forget(store, [])
    forget(store, [77])
    assert (runs(engine), store.acts(10)) == ([], [])


def test_database_lets_no_entry_go_without_a_checkpoint(
    store: IncidentStore, engine: Engine
) -> None:
    write(store, 1, 2, 3)
    forget(store, [2])
    for number in (1, 3):
        with pytest.raises(exc.DBAPIError, match="append-only"), engine.begin() as connection:
            connection.exec_driver_sql(f"DELETE FROM audit WHERE number = {number}")
    assert store.verify().problem is None


def test_whatever_is_removed_in_whatever_order_the_rest_verifies(
    store: IncidentStore, engine: Engine
) -> None:
    chance = Random(7)
    write(store, *(chance.randrange(1, 13) for _ in range(40)))
    anchor = store.verify()
    left = list(range(1, 13))
    chance.shuffle(left)
    while left:
        forget(store, [left.pop() for _ in range(min(len(left), 3))])
        found = store.verify(anchor.trail)
        assert (found.problem, found.lost) == (None, None)
        with engine.connect() as connection:
            entries = connection.execute(select(func.count()).select_from(tables.audit)).scalar()
        assert found.forgotten == 40 - (entries or 0)
        assert len(runs(engine)) <= (entries or 0) + 1
    assert runs(engine) == [(1, 40)]


def test_acts_are_append_only(store: IncidentStore, engine: Engine) -> None:
    write(store, 1)
    forget(store, [1])
    for statement in ("UPDATE acts SET entry = '{}'", "DELETE FROM acts"):
        with pytest.raises(exc.DBAPIError, match="append-only"), engine.begin() as connection:
            connection.exec_driver_sql(statement)
    assert store.verify(None, store.verify().acts).problem is None
    assert acts.BEGINNING.digest != audit.BEGINNING.digest

"""One process at a time leads: on a file, and on a server."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from threading import Event

import pytest
from sqlalchemy import Engine, update

from deploy.runtime.leadership import leadership
from kit.storage.fixtures import START
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.leader_election import LeaderElector
from storage.db.lease_rows import Lease, read_leases
from storage.db.outbox import save_receiver_status
from storage.errors import LeaseLost, StorageDown
from storage.processes import has_ended, process_identity
from storage.records.deliveries import ReceiverState, ReceiverStatus

ALERT = "alert"
STATUS = ReceiverStatus(name="soc", state=ReceiverState.FAILING, reason="no answer", since=START)


def an_elector(engine: Engine, seconds: float = 10.0, version: str = "1") -> LeaderElector:
    return LeaderElector(engine, ALERT, version=version, seconds=seconds)


def row_of(store: AlertStore) -> Lease:
    with store.read_transaction() as connection:
        (found,) = read_leases(connection)
    return found


def test_one_leads_until_it_stops(engine: Engine, store: AlertStore) -> None:
    old, new = an_elector(engine), an_elector(engine, version="2")
    first = old.acquire()
    assert old.is_held
    assert new.acquire() == first
    assert not new.is_held
    old.release()
    second = new.acquire()
    assert (new.is_held, second.term, second.version) == (True, first.term + 1, "2")
    assert not old.is_held
    assert row_of(store) == second


def test_only_one_of_many_takes_it(engine: Engine) -> None:
    electors = [an_elector(engine) for _ in range(8)]
    with ThreadPoolExecutor(len(electors)) as pool:
        found = list(pool.map(LeaderElector.acquire, electors))
    assert [each.is_held for each in electors].count(True) == 1
    assert {each.term for each in found} == {1}


def test_a_lease_runs_out_unless_it_is_renewed(engine: Engine) -> None:
    old, new = an_elector(engine, seconds=0.4), an_elector(engine, seconds=0.4)
    old.acquire()
    for _ in range(4):
        time.sleep(0.2)
        old.renew()
        new.acquire()
        assert not new.is_held
    time.sleep(0.5)
    new.acquire()
    assert new.is_held
    with pytest.raises(LeaseLost, match=f"'{ALERT}' expired here and .*process"):
        old.renew()


def test_nothing_is_kept_of_who_lost_it(engine: Engine) -> None:
    old, new = an_elector(engine, seconds=0.2), an_elector(engine)
    store = AlertStore(engine, old)
    old.acquire()
    with store.transaction() as transaction:
        save_receiver_status(transaction, STATUS)
    store.confirm_lease()
    time.sleep(0.3)
    new.acquire()
    with pytest.raises(LeaseLost), store.transaction() as transaction:
        save_receiver_status(transaction, replace(STATUS, reason="of no weight"))
    with pytest.raises(LeaseLost):
        store.confirm_lease()
    with store.read_transaction() as connection:
        (row,) = connection.execute(tables.receivers.select())
    assert row.reason == STATUS.reason


def test_a_term_that_is_given_twice_is_held_once(engine: Engine, store: AlertStore) -> None:
    elector = an_elector(engine)
    elector.acquire()
    with store.transaction() as transaction:
        transaction.connection.execute(update(tables.leases).values(process="of another machine"))
    with pytest.raises(LeaseLost):
        elector.renew()
    with pytest.raises(LeaseLost), AlertStore(engine, elector).transaction():
        pass


def test_who_slept_and_was_not_followed_goes_on(engine: Engine) -> None:
    elector = an_elector(engine, seconds=0.2)
    first = elector.acquire()
    time.sleep(0.3)
    elector.confirm()
    with AlertStore(engine, elector).transaction():
        pass
    assert row_of(AlertStore(engine)).term == first.term


def test_a_clock_that_was_set_back_holds_no_lease(engine: Engine, store: AlertStore) -> None:
    old, new = an_elector(engine), an_elector(engine)
    lease = old.acquire()
    with store.transaction() as transaction:
        later = update(tables.leases).values(until=lease.until + timedelta(hours=1))
        transaction.connection.execute(later)
    new.acquire()
    assert new.is_held


def test_a_dead_process_of_this_machine_holds_no_lease(engine: Engine, store: AlertStore) -> None:
    if not process_identity():
        pytest.skip("this machine does not tell")
    expected = "from storage.processes import process_identity; print(process_identity())"
    gone = subprocess.run(
        [sys.executable, "-c", expected], capture_output=True, text=True, check=True
    ).stdout.strip()
    elector = an_elector(engine)
    for process, is_free in (
        (gone, True),
        (gone.replace("/pid:", "/other:"), False),
        (process_identity(), False),
        ("", False),
    ):
        an_elector(engine).acquire()
        with store.transaction() as transaction:
            transaction.connection.execute(update(tables.leases).values(process=process))
        elector.acquire()
        assert elector.is_held == is_free, process
        if is_free:
            elector.release()


def test_a_process_number_that_is_used_again_is_another_process() -> None:
    me = process_identity()
    if not me:
        pytest.skip("this machine does not tell")
    assert not has_ended(me)
    assert has_ended(me + "1")


@contextmanager
def a_writer(engine: Engine) -> Iterator[None]:
    """Hold the lock of writers."""
    holds, ends = Event(), Event()

    def hold() -> None:
        with AlertStore(engine).transaction() as transaction:
            save_receiver_status(transaction, STATUS)
            holds.set()
            ends.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait(10)
    try:
        yield
    finally:
        ends.set()
        thread.join()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_on_a_server_a_lease_waits_for_no_other_writer(engine: Engine) -> None:
    elector = an_elector(engine)
    with a_writer(engine):
        began = time.monotonic()
        elector.acquire()
        elector.renew()
        elector.release()
    assert time.monotonic() - began < 5


def test_leading_stands_by_keeps_and_gives_back(engine: Engine, store: AlertStore) -> None:
    old, new, stop = an_elector(engine, 1.0), an_elector(engine, 1.0), Event()
    promises = list[float]()
    with ThreadPoolExecutor(1) as pool:
        with leadership(old, Event(), promises.append):
            waits = pool.submit(_lead, new, stop, promises)
            time.sleep(2.0)  # the lease would have run out twice
            assert not new.is_held
        deadline = time.monotonic() + 5
        while not new.is_held and time.monotonic() < deadline:
            time.sleep(0.05)
        assert row_of(store).term == 2
        stop.set()
        waits.result()
    assert not new.is_held
    assert len(promises) > 2


def _lead(elector: LeaderElector, stop: Event, promises: list[float]) -> None:
    with leadership(elector, stop, promises.append):
        stop.wait()


def test_who_loses_the_lease_stops(engine: Engine, store: AlertStore) -> None:
    elector, stop = an_elector(engine, 0.4), Event()
    with pytest.raises(LeaseLost), leadership(elector, stop, lambda _: None):
        with store.transaction() as transaction:
            taken = update(tables.leases).values(term=tables.leases.c.term + 1, holder="another")
            transaction.connection.execute(taken)
        assert stop.wait(5)
    assert row_of(store).holder == "another"


def test_who_is_stopped_while_it_stands_by_ends_well(engine: Engine) -> None:
    an_elector(engine).acquire()
    stop = Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(SystemExit) as ended, leadership(an_elector(engine), stop, lambda _: None):
        pass
    assert not ended.value.code


class UnreachableElector(LeaderElector):
    """A lease in a database that is away at first."""

    tries = 0

    def acquire(self) -> Lease:
        self.tries += 1
        if self.tries < 3:
            raise StorageDown("db", "connection refused")
        return super().acquire()


def test_a_database_that_is_away_is_waited_for(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    elector = UnreachableElector(engine, ALERT)
    with leadership(elector, Event(), lambda _: None):
        assert elector.is_held
    assert capsys.readouterr().out.count("connection refused") == 1

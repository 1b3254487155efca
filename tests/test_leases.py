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
from storage_fixtures import START

from deploy.leading import leading
from storage import tables
from storage.errors import LeaseLost, StorageDown
from storage.incidents import IncidentStore
from storage.lease_rows import Lease, leases
from storage.leases import LeaderElector
from storage.outbox import set_status
from storage.processes import has_ended, this_process
from storage.records import ReceiverState, ReceiverStatus

ALERT = "alert"
STATUS = ReceiverStatus(name="soc", state=ReceiverState.FAILING, reason="no answer", since=START)


def an_elector(engine: Engine, seconds: float = 10.0, version: str = "1") -> LeaderElector:
    return LeaderElector(engine, ALERT, version=version, seconds=seconds)


def row_of(store: IncidentStore) -> Lease:
    with store.reading() as connection:
        (found,) = leases(connection)
    return found


def test_one_leads_until_it_stops(engine: Engine, store: IncidentStore) -> None:
    old, new = an_elector(engine), an_elector(engine, version="2")
    first = old.take()
    assert old.is_held
    assert new.take() == first
    assert not new.is_held
    old.release()
    second = new.take()
    assert (new.is_held, second.term, second.version) == (True, first.term + 1, "2")
    assert not old.is_held
    assert row_of(store) == second


def test_only_one_of_many_takes_it(engine: Engine) -> None:
    electors = [an_elector(engine) for _ in range(8)]
    with ThreadPoolExecutor(len(electors)) as pool:
        found = list(pool.map(LeaderElector.take, electors))
    assert [each.is_held for each in electors].count(True) == 1
    assert {each.term for each in found} == {1}


def test_a_lease_runs_out_unless_it_is_renewed(engine: Engine) -> None:
    old, new = an_elector(engine, seconds=0.4), an_elector(engine, seconds=0.4)
    old.take()
    for _ in range(4):
        time.sleep(0.2)
        old.renew()
        new.take()
        assert not new.is_held
    time.sleep(0.5)
    new.take()
    assert new.is_held
    with pytest.raises(LeaseLost, match=f"'{ALERT}' ran out here and .*process"):
        old.renew()


def test_nothing_is_kept_of_who_lost_it(engine: Engine) -> None:
    old, new = an_elector(engine, seconds=0.2), an_elector(engine)
    store = IncidentStore(engine, old)
    old.take()
    with store.transaction() as ledger:
        set_status(ledger, STATUS)
    store.confirm()
    time.sleep(0.3)
    new.take()
    with pytest.raises(LeaseLost), store.transaction() as ledger:
        set_status(ledger, replace(STATUS, reason="of no weight"))
    with pytest.raises(LeaseLost):
        store.confirm()
    with store.reading() as connection:
        (row,) = connection.execute(tables.receivers.select())
    assert row.reason == STATUS.reason


def test_a_term_that_is_given_twice_is_held_once(engine: Engine, store: IncidentStore) -> None:
    elector = an_elector(engine)
    elector.take()
    with store.transaction() as ledger:
        ledger.connection.execute(update(tables.leases).values(process="of another machine"))
    with pytest.raises(LeaseLost):
        elector.renew()
    with pytest.raises(LeaseLost), IncidentStore(engine, elector).transaction():
        pass


def test_who_slept_and_was_not_followed_goes_on(engine: Engine) -> None:
    elector = an_elector(engine, seconds=0.2)
    first = elector.take()
    time.sleep(0.3)
    elector.confirm()
    with IncidentStore(engine, elector).transaction():
        pass
    assert row_of(IncidentStore(engine)).term == first.term


def test_a_clock_that_was_set_back_holds_no_lease(engine: Engine, store: IncidentStore) -> None:
    old, new = an_elector(engine), an_elector(engine)
    lease = old.take()
    with store.transaction() as ledger:
        later = update(tables.leases).values(until=lease.until + timedelta(hours=1))
        ledger.connection.execute(later)
    new.take()
    assert new.is_held


def test_a_dead_process_of_this_machine_holds_no_lease(
    engine: Engine, store: IncidentStore
) -> None:
    if not this_process():
        pytest.skip("this machine does not tell")
    told = "from storage.processes import this_process; print(this_process())"
    gone = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True
    ).stdout.strip()
    elector = an_elector(engine)
    for process, is_free in (
        (gone, True),
        (gone.replace("/pid:", "/other:"), False),
        (this_process(), False),
        ("", False),
    ):
        an_elector(engine).take()
        with store.transaction() as ledger:
            ledger.connection.execute(update(tables.leases).values(process=process))
        elector.take()
        assert elector.is_held == is_free, process
        if is_free:
            elector.release()


def test_a_process_number_that_is_used_again_is_another_process() -> None:
    me = this_process()
    if not me:
        pytest.skip("this machine does not tell")
    assert not has_ended(me)
    assert has_ended(me + "1")


@contextmanager
def a_writer(engine: Engine) -> Iterator[None]:
    """Hold the lock of writers."""
    holds, ends = Event(), Event()

    def hold() -> None:
        with IncidentStore(engine).transaction() as ledger:
            set_status(ledger, STATUS)
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
        elector.take()
        elector.renew()
        elector.release()
    assert time.monotonic() - began < 5


def test_leading_stands_by_keeps_and_gives_back(engine: Engine, store: IncidentStore) -> None:
    old, new, stop = an_elector(engine, 1.0), an_elector(engine, 1.0), Event()
    promises = list[float]()
    with ThreadPoolExecutor(1) as pool:
        with leading(old, Event(), promises.append):
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
    with leading(elector, stop, promises.append):
        stop.wait()


def test_who_loses_the_lease_stops(engine: Engine, store: IncidentStore) -> None:
    elector, stop = an_elector(engine, 0.4), Event()
    with pytest.raises(LeaseLost), leading(elector, stop, lambda _: None):
        with store.transaction() as ledger:
            taken = update(tables.leases).values(term=tables.leases.c.term + 1, holder="another")
            ledger.connection.execute(taken)
        assert stop.wait(5)
    assert row_of(store).holder == "another"


def test_who_is_stopped_while_it_stands_by_ends_well(engine: Engine) -> None:
    an_elector(engine).take()
    stop = Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(SystemExit) as ended, leading(an_elector(engine), stop, lambda _: None):
        pass
    assert not ended.value.code


class Away(LeaderElector):
    """A lease in a database that is away at first."""

    tries = 0

    def take(self) -> Lease:
        self.tries += 1
        if self.tries < 3:
            raise StorageDown("db", "connection refused")
        return super().take()


def test_a_database_that_is_away_is_waited_for(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    elector = Away(engine, ALERT)
    with leading(elector, Event(), lambda _: None):
        assert elector.is_held
    assert capsys.readouterr().out.count("connection refused") == 1

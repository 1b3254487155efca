"""What a process of alerts does beside another one: after it hung, and beside an older release."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from alerts_fixtures import BAG, HandClock
from sqlalchemy import Engine
from storage_fixtures import START, a_finding, an_incident, by_rule

from alerts.publisher import Publisher
from alerts.worker import AlertsWorker
from storage.errors import LeaseLost, PositionMoved
from storage.incidents import IncidentStore
from storage.leases import LeaderElector
from storage.log import FINDINGS, INCIDENTS
from storage.memory_log import MemoryLog
from storage.records import IncidentState
from storage.wire import decode_incident, encode_finding

SECOND = timedelta(seconds=1)


def test_who_lost_the_lease_publishes_nothing(engine: Engine) -> None:
    log = MemoryLog()
    old, new = LeaderElector(engine, "alert", seconds=0.0), LeaderElector(engine, "alert")
    old.take()
    hung = Publisher(log, IncidentStore(engine, old))
    hung.run_once()
    new.take()
    store = IncidentStore(engine, new)
    with store.transaction() as ledger:
        ledger.save([by_rule(an_incident())])
    Publisher(log, store).run_once()
    with pytest.raises(LeaseLost):
        hung.run_once()
    assert [decode_incident(entry.value).revision for entry in log.read(INCIDENTS, 0)] == [1]


def test_what_an_older_release_leaves_open_is_retired(store: IncidentStore) -> None:
    log, clock = MemoryLog(), HandClock(START)
    new = worker(log, store, clock, above=0.7)
    new.step()
    old = worker(log, store, clock, above=0.8)
    for number in range(2):  # the old one is the first to read it
        log.append(FINDINGS, "dock", encode_finding(a_finding(number)))
        clock.now = a_finding(number).end + SECOND
        old.step()
    clock.now += 31 * SECOND
    with suppress(PositionMoved):
        new.step()
    new.step()
    (incident,) = store.incidents()
    assert incident.state is IncidentState.OPEN, "the old one judges it still"
    for _ in range(2):
        clock.now += 31 * SECOND
        new.step()
    (incident,) = store.incidents()
    assert (incident.state, incident.closed_because) == (IncidentState.RESOLVED, "retired")


def worker(log: MemoryLog, store: IncidentStore, clock: HandClock, above: float) -> AlertsWorker:
    rule = replace(BAG, above=above)
    hour = timedelta(hours=1)
    return AlertsWorker(log, store, [rule], lambda _: None, sweep_after=hour, clock=clock)

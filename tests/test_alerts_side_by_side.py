"""What a process of alerts does beside another one: after it hung, and beside an older release."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from alerts.incidents.publisher import Publisher
from alerts.worker import AlertsWorker
from kit.alerts.webhook_receiver import BAG_RULE, ManualClock
from kit.storage.fixtures import START, a_finding, an_incident, by_rule
from storage.db.alert_store import AlertStore
from storage.db.leader_election import LeaderElector
from storage.errors import LeaseLost, OffsetMoved
from storage.log.memory_log import MemoryLog
from storage.records.records import IncidentState
from storage.records.topics import FINDINGS, INCIDENTS
from storage.records.wire import decode_incident, encode_finding

SECOND = timedelta(seconds=1)


def test_who_lost_the_lease_publishes_nothing(engine: Engine) -> None:
    log = MemoryLog()
    old, new = LeaderElector(engine, "alert", seconds=0.0), LeaderElector(engine, "alert")
    old.acquire()
    hung = Publisher(log, AlertStore(engine, old))
    hung.run_once()
    new.acquire()
    store = AlertStore(engine, new)
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(an_incident())])
    Publisher(log, store).run_once()
    with pytest.raises(LeaseLost):
        hung.run_once()
    assert [decode_incident(entry.value).revision for entry in log.read(INCIDENTS, 0)] == [1]


def test_what_an_older_release_leaves_open_is_retired(store: AlertStore) -> None:
    log, clock = MemoryLog(), ManualClock(START)
    new = worker(log, store, clock, above=0.7)
    new.step()
    old = worker(log, store, clock, above=0.8)
    for number in range(2):  # the old one is the first to read it
        log.append(FINDINGS, "dock", encode_finding(a_finding(number)))
        clock.now = a_finding(number).end + SECOND
        old.step()
    clock.now += 31 * SECOND
    with suppress(OffsetMoved):
        new.step()
    new.step()
    (incident,) = store.incidents()
    assert incident.state is IncidentState.OPEN, "the old one judges it still"
    for _ in range(2):
        clock.now += 31 * SECOND
        new.step()
    (incident,) = store.incidents()
    assert (incident.state, incident.closed_because) == (IncidentState.RESOLVED, "retired")


def worker(log: MemoryLog, store: AlertStore, clock: ManualClock, above: float) -> AlertsWorker:
    rule = replace(BAG_RULE, above=above)
    hour = timedelta(hours=1)
    return AlertsWorker(log, store, [rule], lambda _: None, sweep_after=hour, clock=clock)

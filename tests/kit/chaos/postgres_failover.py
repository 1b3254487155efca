"""PostgreSQL fails over from a primary to its standby under alerts, and what must be left of it."""

import random
import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from alerts.intake.cursor import READER
from kit.alerts.role import serve
from kit.alerts.webhook_receiver import RecordingReceiver, run_receiver
from kit.chaos.alerts_kills import FORK_SERVER, assert_matches_oracle, is_settled
from kit.chaos.broker_stops import RetryingFindingProducer
from kit.postgres.replication import ReplicatedPair, run_replicated_pair
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore
from storage.db.audit.actions import ActionKind
from storage.db.database import open_database
from storage.errors import StorageBlocked
from storage.log.log import Log
from storage.log.sqlite.log import SqliteLog
from storage.records.deliveries import DeliveryState
from storage.records.topics import FINDINGS

FINDINGS_AFTERWARDS = 60
"""Findings that are judged once it goes on: incidents are resolved, too."""
PAUSE = 0.1
"""Seconds between two findings."""
FINDINGS_BEFORE = 20
"""Findings that are judged before the failover, and again behind a standby that is paused."""
TIMEOUT = 120.0
"""Seconds that a busy machine may take for what is not measured."""


class FailoverKind(StrEnum):
    """How the primary ends, and what the standby has of it by then."""

    KILLED = "killed"
    SWITCHED_OVER = "switched over"
    BEHIND = "behind"


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverResult:
    """What a failover was survived by, and how many seconds after the promotion it went on.

    `lost` are the findings that the promoted standby had not, `again` the posts that came twice
    under one id, and `renamed` those whose delivery the standby had not: told again by another.
    """

    findings: int
    incidents: int
    deliveries: int
    lost: int
    again: int
    renamed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FailoverSite:
    """The alerts of one site: where they read and write, and whom they notify."""

    pair: ReplicatedPair
    log: Log
    store: AlertStore
    receiver: RecordingReceiver

    @property
    def judged_offset(self) -> int:
        return self.store.committed_offset(READER, FINDINGS)


def fail_over(folder: Path, how: FailoverKind, rng: random.Random) -> FailoverResult:
    """Let the standby take over under load and compare with the oracle; raises AssertionError."""
    with (
        run_replicated_pair(synchronous=how is not FailoverKind.BEHIND) as pair,
        run_receiver() as receiver,
    ):
        log, database = SqliteLog(folder / "log.db"), pair.create_database()
        engine = open_database(database)
        site = FailoverSite(pair, log, AlertStore(engine), receiver)
        alerts = FORK_SERVER.Process(target=serve, args=(folder, receiver.url, "", database))
        producer = RetryingFindingProducer(log, ["dock", "yard"], rng, PAUSE)
        alerts.start()
        try:
            wait_for(lambda: site.judged_offset > FINDINGS_BEFORE, TIMEOUT)
            lost, seconds = _take_over(site, how, rng)
            start = site.judged_offset
            wait_for(lambda: site.judged_offset > start + FINDINGS_AFTERWARDS, TIMEOUT)
            producer.stop()
            _settle(site, alerts)
        finally:
            producer.stop()
            alerts.kill()
            alerts.join()
        try:
            assert_matches_oracle(site.store, log, producer.produced)
            assert site.store.verify_audit().problem is None
            return _result(site, how, sum(map(len, producer.produced.values())), lost, seconds)
        finally:
            log.close()
            engine.dispose()


def _take_over(site: FailoverSite, how: FailoverKind, rng: random.Random) -> tuple[int, float]:
    """Return how many findings the standby had not, and how long it took to go on."""
    if how is FailoverKind.BEHIND:
        site.pair.pause_replication()
        start = site.judged_offset
        wait_for(lambda: site.judged_offset > start + FINDINGS_BEFORE, TIMEOUT)
    time.sleep(rng.uniform(0.0, 0.2))
    before = site.judged_offset
    if how is FailoverKind.SWITCHED_OVER:
        site.pair.primary.stop("fast")
    else:
        site.pair.kill_primary()
    time.sleep(rng.uniform(0.0, 3.0))
    site.pair.standby.promote()
    promoted = time.monotonic()
    offset = _offset_once_up(site)
    wait_for(lambda: site.judged_offset > offset)
    return max(before - offset, 0), time.monotonic() - promoted


def _offset_once_up(site: FailoverSite) -> int:
    while True:
        try:
            return site.judged_offset
        except StorageBlocked:
            time.sleep(0.01)


def _settle(site: FailoverSite, alerts: ForkServerProcess) -> None:
    wait_for(lambda: site.judged_offset >= site.log.end_offset(FINDINGS), TIMEOUT)
    wait_for(partial(is_settled, site.store), TIMEOUT)
    assert alerts.is_alive(), "alerts died by themselves"


def _result(
    site: FailoverSite, how: FailoverKind, findings: int, lost: int, seconds: float
) -> FailoverResult:
    posts = Counter(site.receiver.ids())
    deliveries = {str(each.id): each.state for each in site.store.deliveries()}
    assert set(deliveries.values()) == {DeliveryState.DELIVERED}
    assert deliveries.keys() <= posts.keys()
    renamed = posts.keys() - deliveries.keys()
    acts = [each.action for each in site.store.audit_actions(10)]
    if how is FailoverKind.BEHIND:
        assert lost > 0
        assert [act.kind for act in acts] == [ActionKind.DATABASE_REWIND]
    else:
        assert (lost, acts, renamed) == (0, [], set())
    return FailoverResult(
        findings=findings,
        incidents=len(site.store.incidents()),
        deliveries=len(deliveries),
        lost=lost,
        again=posts.total() - len(posts),
        renamed=len(renamed),
        seconds=round(seconds, 2),
    )

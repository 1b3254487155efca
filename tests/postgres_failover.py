"""PostgreSQL fails over from a primary to its standby under alerts, and what must be left of it."""

import random
import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from alerts_fixtures import Receiver, receiving
from alerts_kills import CRASHING, compare, is_told
from alerts_role import serve
from broker_stops import Giver
from postgres_pair import Pair, replicating
from storage_fixtures import wait_for

from alerts.reading import READER
from storage.acts import ActKind
from storage.database import open_database
from storage.errors import StorageBlocked
from storage.incidents import IncidentStore
from storage.log import FINDINGS, Log
from storage.records import DeliveryState
from storage.sqlite_log import SqliteLog

AFTERWARDS = 60
"""Findings that are judged once it goes on: incidents are resolved, too."""
PAUSE = 0.1
"""Seconds between two findings."""
ENOUGH = 20
"""Findings that are judged before the failover, and again behind a standby that is paused."""
PATIENCE = 120.0
"""Seconds that a busy machine may take for what is not measured."""


class How(StrEnum):
    """How the primary ends, and what the standby has of it by then."""

    KILLED = "killed"
    SWITCHED_OVER = "switched over"
    BEHIND = "behind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Toll:
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
class Site:
    """The alerts of one site: where they read and write, and whom they notify."""

    pair: Pair
    log: Log
    store: IncidentStore
    receiver: Receiver

    @property
    def judged(self) -> int:
        return self.store.position(READER, FINDINGS)


def fail_over(folder: Path, how: How, chance: random.Random) -> Toll:
    """Let the standby take over under load and compare with the oracle; raises AssertionError."""
    with (
        replicating(synchronous=how is not How.BEHIND) as pair,
        receiving() as receiver,
    ):
        log, database = SqliteLog(folder / "log.db"), pair.new()
        engine = open_database(database)
        site = Site(pair, log, IncidentStore(engine), receiver)
        alerts = CRASHING.Process(target=serve, args=(folder, receiver.url, "", database))
        giver = Giver(log, ["dock", "yard"], chance, PAUSE)
        alerts.start()
        try:
            wait_for(lambda: site.judged > ENOUGH, PATIENCE)
            lost, seconds = _take_over(site, how, chance)
            start = site.judged
            wait_for(lambda: site.judged > start + AFTERWARDS, PATIENCE)
            giver.end()
            _settle(site, alerts)
        finally:
            giver.end()
            alerts.kill()
            alerts.join()
        try:
            compare(site.store, log, giver.given)
            assert site.store.verify().problem is None
            return _toll(site, how, sum(map(len, giver.given.values())), lost, seconds)
        finally:
            log.close()
            engine.dispose()


def _take_over(site: Site, how: How, chance: random.Random) -> tuple[int, float]:
    """Return how many findings the standby had not, and how long it took to go on."""
    if how is How.BEHIND:
        site.pair.pause_replication()
        start = site.judged
        wait_for(lambda: site.judged > start + ENOUGH, PATIENCE)
    time.sleep(chance.uniform(0.0, 0.2))
    before = site.judged
    if how is How.SWITCHED_OVER:
        site.pair.primary.stop("fast")
    else:
        site.pair.kill_primary()
    time.sleep(chance.uniform(0.0, 3.0))
    site.pair.standby.promote()
    promoted = time.monotonic()
    stood = _when_up(site)
    wait_for(lambda: site.judged > stood)
    return max(before - stood, 0), time.monotonic() - promoted


def _when_up(site: Site) -> int:
    while True:
        try:
            return site.judged
        except StorageBlocked:
            time.sleep(0.01)


def _settle(site: Site, alerts: ForkServerProcess) -> None:
    wait_for(lambda: site.judged >= site.log.next(FINDINGS), PATIENCE)
    wait_for(partial(is_told, site.store), PATIENCE)
    assert alerts.is_alive(), "alerts died by themselves"


def _toll(site: Site, how: How, findings: int, lost: int, seconds: float) -> Toll:
    posts = Counter(site.receiver.ids())
    deliveries = {str(each.id): each.state for each in site.store.deliveries()}
    assert set(deliveries.values()) == {DeliveryState.DELIVERED}
    assert deliveries.keys() <= posts.keys()
    renamed = posts.keys() - deliveries.keys()
    acts = [each.act for each in site.store.acts(10)]
    if how is How.BEHIND:
        assert lost > 0
        assert [act.kind for act in acts] == [ActKind.DATABASE_REWIND]
    else:
        assert (lost, acts, renamed) == (0, [], set())
    return Toll(
        findings=findings,
        incidents=len(site.store.incidents()),
        deliveries=len(deliveries),
        lost=lost,
        again=posts.total() - len(posts),
        renamed=len(renamed),
        seconds=round(seconds, 2),
    )

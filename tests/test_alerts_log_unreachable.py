"""While the log is away health is judged, and incidents are kept, told, and published later."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command

from alerts.dispatch.dispatcher import Dispatcher
from alerts.incidents.publisher import Publisher
from alerts.intake.outage_monitor import TICK, UNREACHABLE_AFTER, OutageMonitor
from alerts.intake.progress_check import ProgressCheck
from alerts.notify.courier import Courier
from alerts.rules.lifecycle import note as note_
from alerts.rules.rule import Rule
from alerts.worker import AlertsWorker
from deploy.cli.incident_actions import apply_action
from kit.alerts.routing import AT_ONCE
from kit.alerts.webhook_receiver import BAG_RULE, LOG_UNREACHABLE_RULE, a_webhook, run_receiver
from kit.coverage.claims import a_claim
from kit.storage.fixtures import START, a_finding, an_incident
from storage.clock import ClockReading
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.database import _alembic_config, engine_for, open_database
from storage.db.unpublished import AUDIT_TOPIC, PUBLISHER_GROUP
from storage.errors import StorageBlocked, StorageDown, StorageUnfit, TooLarge
from storage.log.lazy_log import LazyLog
from storage.log.log import LogPage, ReadRequest
from storage.log.memory_log import MemoryLog
from storage.records.claims import encode_claim
from storage.records.records import CoverageState, IncidentState
from storage.records.topics import COVERAGE, DEAD_LETTERS, FINDINGS, INCIDENTS
from storage.records.wire import decode_dead_letter, decode_incident, encode_finding

GONE = StorageDown("kafka at 127.0.0.1:1", "connection refused")
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
UNWATCHED = replace(LOG_UNREACHABLE_RULE, name="nobody-watches", question="health/unwatched")
OPEN, PENDING, RESOLVED = IncidentState.OPEN, IncidentState.PENDING, IncidentState.RESOLVED


class BrokenLog(MemoryLog):
    """A log that answers nothing while it is `away`, and takes nothing while `refuses` says so."""

    def __init__(self) -> None:
        super().__init__()
        self.away: Exception | None = None
        self.refuses: Exception | None = None
        self.asked = 0

    def read(
        self, partition: str, offset: int, limit: int = 100, key: str | None = None
    ) -> LogPage:
        self._answer(self.away)
        return super().read(partition, offset, limit, key)

    def end_offset(self, partition: str) -> int:
        self._answer(self.away)
        return super().end_offset(partition)

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:  # type: ignore[override]
        self._answer(self.away or self.refuses)
        return super().append_all(topic, values)

    def _answer(self, error: Exception | None) -> None:
        self.asked += 1
        if error is not None:
            raise error


class ManualClocks:
    """A wall clock and a monotonic one, moved by hand."""

    def __init__(self) -> None:
        self.wall, self.monotonic = START + 10 * MINUTE, 0.0

    def read(self) -> ClockReading:
        return ClockReading(wall=self.wall, monotonic=self.monotonic)

    def pass_(self, span: timedelta) -> None:
        self.wall += span
        self.monotonic += span.total_seconds()


class Site:
    """A judge and the watch beside it, driven by hand."""

    def __init__(self, store: AlertStore, *rules: Rule, log: BrokenLog | None = None) -> None:
        self.log, self.store, self.clocks = log or BrokenLog(), store, ManualClocks()
        self.publisher = Publisher(self.log, store)
        self.judge = AlertsWorker(
            self.log,
            store,
            rules or (BAG_RULE, LOG_UNREACHABLE_RULE, UNWATCHED),
            lambda _: None,
            publisher=self.publisher,
            policy=AT_ONCE,
            cameras=("dock",),
            sweep_after=10 * MINUTE,
            clock=self.clocks.read,
        )
        judge = self.judge
        self.watch = OutageMonitor(
            judge.availability, store, judge.judge_samples, judge.judge_unreported
        )

    def live(self, span: timedelta, step: timedelta = 5 * SECOND) -> None:
        """Let time pass, with a step of both loops every few seconds."""
        while span > timedelta():
            self.clocks.pass_(step)
            span -= step
            self.run_once()

    def run_once(self) -> None:
        with suppress(StorageBlocked):
            self.judge.step()
        self.watch.run_once()

    def find(self, number: int, score: float = 0.9) -> None:
        self.log.append(FINDINGS, "dock", encode_finding(a_finding(number, score)))

    def claim(self, start: float, end: float) -> None:
        claim = a_claim(start, end, CoverageState.ANALYSED, "dock")
        self.log.append(COVERAGE, "dock", encode_claim(claim))

    def states(self) -> dict[str, IncidentState]:
        return {each.rule: each.state for each in reversed(self.store.incidents())}


@pytest.fixture
def site(store: AlertStore) -> Site:
    found = Site(store)
    found.run_once()
    return found


def test_log_that_goes_away_is_unreachable_and_nobody_watches(site: Site) -> None:
    site.log.away = GONE
    began = site.clocks.wall
    site.live(UNREACHABLE_AFTER)
    assert site.states() == {}
    site.live(10 * SECOND)
    (incident,) = site.store.incidents()
    assert (incident.rule, incident.camera, incident.state) == ("log-away", "reader/alerts", OPEN)
    assert abs(incident.first_seen_at - began) <= 5 * SECOND
    assert "connection refused" in incident.reason
    site.live(MINUTE)
    assert site.states() == {"log-away": OPEN, "nobody-watches": OPEN}


def test_log_that_is_back_is_reachable_and_watched(site: Site) -> None:
    site.log.away = GONE
    site.live(3 * MINUTE)
    site.log.away = None
    site.live(TICK + 5 * SECOND)
    assert site.states() == {"log-away": RESOLVED, "nobody-watches": OPEN}
    passed = (site.clocks.wall - START).total_seconds()
    site.claim(passed, passed + 5)
    site.clocks.pass_(5 * SECOND)
    site.run_once()
    assert site.states() == {"log-away": RESOLVED, "nobody-watches": RESOLVED}
    site.log.away = GONE
    site.live(2 * MINUTE)
    assert site.states() == {"log-away": OPEN, "nobody-watches": OPEN}


def test_log_that_is_back_soon_is_told_to_nobody(site: Site) -> None:
    for _ in range(5):
        site.log.away = GONE
        site.live(UNREACHABLE_AFTER - 5 * SECOND)
        site.log.away = None
        site.live(5 * SECOND)
    assert "log-away" not in site.states()


@pytest.mark.parametrize("jump", [timedelta(hours=2), -timedelta(hours=2)])
def test_wall_clock_that_jumps_neither_raises_nor_hides(store: AlertStore, jump: timedelta) -> None:
    site = Site(store, replace(LOG_UNREACHABLE_RULE, for_=3 * MINUTE))
    site.run_once()
    site.log.away = GONE
    site.live(MINUTE)
    site.clocks.wall += jump
    site.live(MINUTE)
    assert site.states() == {"log-away": PENDING}
    site.live(2 * MINUTE)
    assert site.states() == {"log-away": OPEN}
    site.log.away = None
    site.live(MINUTE + 5 * MINUTE)  # the clock is in doubt for a while
    assert site.states() == {"log-away": RESOLVED}
    site.log.away = GONE
    site.live(5 * MINUTE)
    assert site.states() == {"log-away": OPEN}


def test_outage_that_lasts_is_judged_less_and_less_often(site: Site) -> None:
    site.log.away = GONE
    site.live(timedelta(hours=1), step=10 * SECOND)
    (incident,) = [each for each in site.store.incidents() if each.rule == "log-away"]
    assert incident.revision < 75, "every 30 s it would be 120"


def test_watch_that_begins_anew_ends_what_the_one_before_told(
    site: Site, store: AlertStore
) -> None:
    site.log.away = GONE
    site.live(2 * MINUTE)
    again = Site(store)
    again.clocks.wall = site.clocks.wall + MINUTE
    again.run_once()
    assert again.states()["log-away"] is RESOLVED


def test_broken_reader_is_no_matter_of_the_database(site: Site) -> None:
    """A database that blocks the judge between two looks at the log begins no outage."""
    with pytest.raises(StorageDown), site.judge.availability.track():
        raise GONE
    assert site.judge.availability.outage is not None
    site.run_once()
    assert site.judge.availability.outage is None


def test_log_that_takes_nothing_delays_no_incident(store: AlertStore) -> None:
    site = Site(store)
    site.log.append(FINDINGS, "dock", b"\x00garbage")
    site.find(0)
    site.log.refuses = StorageUnfit("topic incidents", "not authorized")
    with run_receiver() as receiver:
        site.run_once()
        Dispatcher(store, AT_ONCE).run_once(datetime.now(UTC))
        assert Courier(store, [a_webhook(receiver.url)]).run_once(datetime.now(UTC)) == 1
        assert len(receiver.posts) == 1
    (incident,) = store.incidents()
    apply_action(store, str(incident.id), note_, by="ada", note="two bags")
    with pytest.raises(StorageBlocked, match="not authorized"):
        site.publisher.run_once()
    site.log.refuses = None
    while site.publisher.run_once():
        pass
    published = [decode_incident(entry.value) for entry in site.log.read(INCIDENTS, 0)]
    assert [each.revision for each in published] == [1, 2]
    (dead,) = [decode_dead_letter(entry.value) for entry in site.log.read(DEAD_LETTERS, 0)]
    assert (dead.value, dead.offset) == (b"\x00garbage", 0)


def test_publisher_that_was_killed_before_the_commit_goes_on_in_order(site: Site) -> None:
    for number in range(3):
        site.find(number)
        site.run_once()
    killed = Publisher(site.log, site.store)
    keep, killed._save_offset = killed._save_offset, lambda *_: None  # type: ignore[method-assign,assignment]
    killed.run_once()
    del keep
    again = Publisher(site.log, site.store)
    while again.run_once():
        pass
    published = [decode_incident(entry.value).revision for entry in site.log.read(INCIDENTS, 0)]
    assert published == [1, 2, 3, 1, 2, 3]
    assert Publisher(site.log, site.store).run_once() == 0


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_trail_of_an_older_longwatch_is_not_published_again(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database = f"sqlite:///{tmp_path / 'old.db'}"
    if kind == "postgresql":
        database = request.getfixturevalue("postgres").create_database("template0")
    engine = engine_for(database)
    with engine.begin() as connection:
        command.upgrade(_alembic_config(connection), "0014")
        incident = asdict(an_incident()) | {"id": "i0", "evidence": []}
        connection.execute(tables.incidents.insert(), incident)
        entry = {"incident_id": "i0", "revision": 1, "entry": "{}", "digest": "0"}
        connection.execute(tables.audit.insert(), [entry | {"number": 1}, entry | {"number": 2}])
    engine.dispose()
    engine = open_database(database)
    assert AlertStore(engine).committed_offset(PUBLISHER_GROUP, AUDIT_TOPIC) == 3
    engine.dispose()


def test_two_publishers_leave_nothing_out(site: Site) -> None:
    other = Publisher(site.log, site.store)
    for number in range(4):
        site.find(number)
        site.run_once()
        (site.publisher if number % 2 else other).run_once()
    while site.publisher.run_once() or other.run_once():
        pass
    published = [decode_incident(entry.value).revision for entry in site.log.read(INCIDENTS, 0)]
    assert set(published) == {1, 2, 3, 4}


def test_what_the_log_will_never_take_is_left_out_alone(site: Site) -> None:
    for number in range(2):
        site.find(number)
        site.run_once()
    taking = site.log.append_all

    def append_all(topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        if any(decode_incident(value).revision == 1 for _, value in values):
            raise TooLarge("kafka", 10, 9)
        return taking(topic, values)

    site.log.append_all = append_all  # type: ignore[method-assign]
    while site.publisher.run_once():
        pass
    published = [decode_incident(entry.value).revision for entry in site.log.read(INCIDENTS, 0)]
    assert published == [2]


def test_heart_does_not_beat_and_the_log_is_not_asked_while_it_is_away(site: Site) -> None:
    pulse = ProgressCheck(site.log, site.store, site.judge.availability)
    assert pulse.observe()
    site.log.away = GONE
    assert not pulse.observe()
    site.live(10 * SECOND)
    asked = site.log.asked
    assert not pulse.observe()
    assert site.log.asked == asked
    site.log.away = None
    site.run_once()
    assert pulse.observe()


def test_log_that_is_away_at_the_start_is_opened_when_it_answers() -> None:
    log, tried = MemoryLog(), list[int]()
    answers: list[Exception] = [GONE]

    def opening() -> MemoryLog:
        tried.append(1)
        if answers:
            raise answers[0]
        return log

    late = LazyLog(opening)
    for _ in range(10):
        with pytest.raises(StorageDown, match="connection refused"):
            late.end_offset(FINDINGS)
    assert len(tried) == 1, "all who ask at once share one attempt"
    answers.clear()
    late._tried_at = float("-inf")
    assert late.append(FINDINGS, "dock", b"x") == 0
    assert log.end_offset(FINDINGS) == 1


def test_log_that_cannot_be_used_is_waited_for_once_it_was_opened() -> None:
    refused = StorageUnfit("topic findings", "not authorized")

    def opening() -> MemoryLog:
        raise refused

    with pytest.raises(StorageUnfit):
        LazyLog(opening).end_offset(FINDINGS)
    log = BrokenLog()
    late = LazyLog(lambda: log)
    follower = late.follow()
    log.away = refused
    with pytest.raises(StorageBlocked, match="not authorized"):
        late.end_offset(FINDINGS)
    with pytest.raises(StorageBlocked, match="not authorized"):
        follower.read({FINDINGS: ReadRequest(0, 1)})

"""What a reader believes, when it doubts its own clock, and what stored instants hold back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from alerts.dispatch.dispatcher import Dispatcher
from alerts.dispatch.grouping import MessageRate, NotificationPolicy, RoutePolicy
from alerts.dispatch.heartbeat import Heartbeat
from alerts.intake.cursor import READER
from alerts.intake.progress_check import ProgressCheck
from alerts.notify.breaker import Breaker
from alerts.notify.outcomes import Delivered, Retry
from alerts.rules.rule import Rule, next_revisions
from alerts.rules.transitions import resolve
from alerts.worker import AlertsWorker
from deploy.runtime.housekeeping import TopicRetention, skip_while_clock_unsteady, trim_topics
from kit.alerts.routing import AT_ONCE, an_open_incident, dispatch_all, save_and_notify
from kit.alerts.samples import MINUTE, RULE, sample_at
from kit.storage.fixtures import START, a_delivery, a_finding, an_incident, by_rule
from storage.db.alert_store import AlertStore
from storage.db.outbox import Outbox
from storage.db.rows.notifications import TokenBucket
from storage.log.clock_guard import (
    ClockReading,
    ClockStability,
    CurrentTime,
    EntryTimestamp,
    StepDetector,
    is_clock_behind,
    newest_timestamps,
)
from storage.log.dead_letters import read_dead_letters
from storage.log.log import COVERAGE, EPOCH, FINDINGS, WINDOWS, LogEntry
from storage.log.memory_log import MemoryLog
from storage.records.claims import Claim, encode_claim
from storage.records.records import CoverageState, IncidentState
from storage.records.wire import encode_finding

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
PRESENT = CurrentTime(now=START)
WAITING, SEEN, DOWN = (
    CoverageState.WAITING,
    CoverageState.ANALYSED,
    CoverageState.CAMERA_DOWN,
)
HEALTH = [
    Rule(
        name=name,
        question=f"health/{name}",
        above=0.5,
        below=0.5,
        stale_after=timedelta(days=36500),
        notify=("soc",),
    )
    for name in ("clock_ahead", "clock_behind")
]


class Site:
    """A log, its reader, and the clock of each."""

    def __init__(self, store: AlertStore, *rules: Rule, cameras: tuple[str, ...] = ()) -> None:
        self.now = START
        self.wrong = timedelta()
        self.log = MemoryLog(now=lambda: self.now)
        self.store = store
        self.cameras = cameras
        self.rules = rules or (RULE, *HEALTH)
        self.restart()

    def restart(self) -> None:
        self.judge = AlertsWorker(
            self.log,
            self.store,
            self.rules,
            lambda seconds: None,
            cameras=self.cameras,
            sweep_after=10 * MINUTE,
            clock=self.clock,
        )

    def clock(self) -> ClockReading:
        monotonic = (self.now - START).total_seconds()
        return ClockReading(wall=self.now + self.wrong, monotonic=monotonic)

    def live(self, minutes: int, *cameras: str, score: float = 0.9) -> None:
        """Let each camera write a window a minute, and the reader read it."""
        for _ in range(minutes):
            self.now += MINUTE
            for camera in cameras:
                self.write(camera, score=score)
            self.read()

    def write(self, camera: str, ahead: timedelta = timedelta(), score: float = 0.9) -> None:
        start, end = self.now - MINUTE + ahead, self.now + ahead
        finding = replace(a_finding(0, score, camera), start=start, end=end, since=start)
        finding = replace(finding, window_id=f"{camera}@{start.isoformat()}")
        for state in (WAITING, SEEN):
            claim = Claim(camera=camera, start=start, end=end, state=state)
            self.log.append(COVERAGE, camera, encode_claim(claim))
        self.log.append(FINDINGS, camera, encode_finding(finding))

    def read(self) -> None:
        while self.judge.step():
            pass

    def dead(self) -> list[str]:
        return [dead.reason for _, dead in read_dead_letters(self.log)]

    def states(self, rule: str) -> dict[str, IncidentState]:
        found = self.store.incidents()[::-1]
        return {each.camera: each.state for each in found if each.rule == rule}


@pytest.mark.parametrize("cameras", [("dock",), ("dock", "gate", "yard")])
def test_camera_that_is_ahead_is_refused_and_the_others_are_judged(
    cameras: tuple[str, ...], store: AlertStore
) -> None:
    site = Site(store)
    site.live(1, *cameras, score=0.1)
    site.now += MINUTE
    site.write("dock", ahead=30 * DAY)
    for other in cameras[1:]:
        site.write(other)
    site.read()
    assert site.states("clock_ahead") == {"dock": IncidentState.OPEN}
    assert site.states("bag-left") == dict.fromkeys(cameras[1:], IncidentState.OPEN)
    assert len(site.dead()) == 3
    assert all(each.endswith("is 30 days, 0:00:00 ahead of our clock") for each in site.dead())
    site.live(2, *cameras)
    assert site.states("clock_ahead") == {"dock": IncidentState.RESOLVED}
    assert site.states("bag-left") == dict.fromkeys(cameras, IncidentState.OPEN)
    assert len(site.dead()) == 3


@pytest.mark.parametrize("cameras", [("dock",), ("dock", "gate", "yard")])
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("wrong", [-HOUR, -400 * DAY])
def test_reader_that_is_behind_for_two_minutes_loses_nothing(
    cameras: tuple[str, ...], restarts: bool, wrong: timedelta, store: AlertStore
) -> None:
    site = Site(store)
    site.live(3, *cameras)
    site.wrong = wrong
    if restarts:
        site.restart()
    read = store.committed_offset(READER, FINDINGS)
    with capture_logs() as log_lines:
        site.live(2, *cameras)
    assert store.committed_offset(READER, FINDINGS) == read
    assert [
        each["event"].partition(":")[0] for each in log_lines if each["log_level"] == "error"
    ] == ["clock_behind"]
    assert site.states("clock_behind") == {"reader/alerts": IncidentState.OPEN}
    site.wrong = timedelta()
    site.live(5, *cameras)
    assert store.counts().findings == 10 * len(cameras)
    assert site.dead() == []
    (*_, last) = (each for each in store.incidents() if each.rule == "bag-left")
    assert last.last_seen_at == site.now
    site.now += MINUTE
    site.read()
    assert site.states("clock_behind") == {"reader/alerts": IncidentState.RESOLVED}


def test_reader_that_is_ahead_sweeps_nothing_that_was_just_seen(store: AlertStore) -> None:
    site = Site(store)
    site.live(3, "dock")
    site.wrong = 30 * DAY
    site.live(9, "dock")  # it is believed again by now: it ran evenly
    assert site.judge._guard.doubt is None
    assert site.states("bag-left") == {"dock": IncidentState.OPEN}
    assert store.counts().findings == 12


def test_camera_that_is_heard_no_more_is_swept_all_the_same(store: AlertStore) -> None:
    site = Site(store)
    site.live(3, "dock")
    site.live(20)
    assert site.states("bag-left") == {"dock": IncidentState.RESOLVED}


def test_clock_that_steps_for_good_is_believed_once_it_runs_evenly() -> None:
    steps = StepDetector(settle=120.0)

    def observe(minute: float, offset: timedelta) -> timedelta | None:
        wall = START + minute * MINUTE + offset
        return steps.observe(ClockReading(wall=wall, monotonic=60 * minute))

    assert observe(0, timedelta()) is None
    assert observe(1, HOUR) == HOUR
    assert observe(2, HOUR) == HOUR
    assert observe(2.5, 2 * HOUR) == 2 * HOUR
    assert observe(4, 2 * HOUR) == 2 * HOUR
    assert observe(4.5, 2 * HOUR) is None
    assert observe(5, timedelta()) == -2 * HOUR
    assert observe(6, 2 * HOUR + MINUTE) is None
    assert observe(7, 2 * HOUR) is None


def test_most_cameras_outvote_our_clock_and_the_log_decides_of_one() -> None:
    def stamp(camera: str, ahead: timedelta, appended: timedelta = timedelta()) -> EntryTimestamp:
        return EntryTimestamp(camera=camera, at=START + ahead, appended_at=START + appended)

    right, wrong = timedelta(), HOUR
    assert not is_clock_behind([], PRESENT)
    assert not is_clock_behind([stamp("dock", wrong)], PRESENT)
    assert is_clock_behind([stamp("dock", wrong, wrong)], PRESENT)
    assert not is_clock_behind([stamp("dock", right, wrong)], PRESENT)
    assert not is_clock_behind([stamp("dock", wrong, wrong), stamp("gate", right)], PRESENT)
    assert is_clock_behind([stamp(each, wrong) for each in ("dock", "gate")], PRESENT)
    assert not is_clock_behind([stamp("dock", PRESENT.tolerance, HOUR)], PRESENT)
    gone = [stamp(f"gone-{n}", -DAY, -DAY) for n in range(9)]
    assert is_clock_behind([*gone, stamp("dock", wrong, wrong)], PRESENT)
    assert not is_clock_behind([*gone, stamp("dock", wrong)], PRESENT)


def test_newest_stamps_are_those_of_the_cameras_own_processes() -> None:
    log = MemoryLog(now=lambda: START)
    log.append(FINDINGS, "dock", encode_finding(a_finding(0)))
    (only,) = newest_timestamps(log)
    assert only.at == a_finding(0).end
    for minute, state in enumerate((WAITING, SEEN, DOWN, CoverageState.SHED)):
        end = START + minute * MINUTE
        claim = Claim(camera="dock", start=end - MINUTE, end=end, state=state)
        log.append(COVERAGE, "dock", encode_claim(claim))
    log.append(COVERAGE, "dock", b"\x00 poison")
    (only,) = newest_timestamps(log)
    assert (only.at, only.appended_at) == (START + 2 * MINUTE, START)


@pytest.mark.parametrize("value", [-1, 2**62, -(2**62)])
def test_entry_that_no_clock_stamped_has_an_instant(value: int) -> None:
    entry = LogEntry(FINDINGS, 0, "dock", value, b"")
    assert EPOCH <= entry.at < datetime(9000, 1, 1, tzinfo=UTC)


AHEAD = sample_at(START + 30 * DAY)
SEQUENCE = Rule(name="then", question="bag", above=0.8, below=0.5, then="exit", within=HOUR)


@pytest.mark.parametrize(
    "rule", [RULE, replace(RULE, for_=2 * MINUTE), replace(RULE, keep_firing_for=2 * MINUTE)]
)
def test_incident_that_was_seen_in_the_future_goes_on_from_now(rule: Rule) -> None:
    (live,) = next_revisions(rule, None, AHEAD)
    for minute in range(4):
        live = (live, *next_revisions(rule, live, sample_at(START + minute * MINUTE), PRESENT))[-1]
    assert live.state is IncidentState.OPEN
    assert live.opened_at is not None
    assert START - MINUTE < live.opened_at <= START + 3 * MINUTE
    assert live.last_seen_at == START + 3 * MINUTE
    for minute in range(4, 9):
        live = (
            live,
            *next_revisions(rule, live, sample_at(START + minute * MINUTE, 0.1), PRESENT),
        )[-1]
    assert live.state is IncidentState.RESOLVED
    assert START < (live.closed_at or START) < START + 9 * MINUTE


def test_sequence_that_began_in_the_future_goes_on_from_now() -> None:
    (live,) = next_revisions(SEQUENCE, None, AHEAD)
    live = next_revisions(SEQUENCE, live, sample_at(START), PRESENT)[-1]
    live = next_revisions(SEQUENCE, live, sample_at(START + MINUTE, question="exit"), PRESENT)[-1]
    assert (live.state, live.opened_at) == (IncidentState.OPEN, START + MINUTE)


@pytest.mark.parametrize("by_hand", [False, True])
def test_incident_that_closed_in_the_future_makes_nothing_late(by_hand: bool) -> None:
    rule = replace(RULE, quiet=HOUR)
    (live,) = next_revisions(rule, None, AHEAD)
    closed = next_revisions(rule, live, sample_at(AHEAD.at + MINUTE, 0.1))[-1]
    if by_hand:
        closed = resolve(live, "ada", START)
    (begun,) = next_revisions(rule, closed, sample_at(START), PRESENT)
    assert (begun.state, begun.opened_at) == (IncidentState.OPEN, START)


def test_incident_that_began_in_time_and_closed_in_the_future_keeps_its_beginning() -> None:
    """What began it is not taken for something new: the incident would have the same id."""
    (live,) = next_revisions(RULE, None, sample_at(START))
    (kept,) = next_revisions(RULE, live, AHEAD)
    closed = resolve(kept, "ada", START)
    assert next_revisions(RULE, closed, sample_at(START), PRESENT) == ()
    (begun,) = next_revisions(RULE, closed, sample_at(START + MINUTE), PRESENT)
    assert begun.id != live.id


def test_closed_incident_of_the_future_hides_no_live_one(store: AlertStore) -> None:
    later = replace(an_incident(2, IncidentState.RESOLVED), first_seen_at=START + 30 * DAY)
    live = replace(an_incident(), id=an_open_incident(5).id)
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(replace(later, revision=1)), by_rule(live)])
        (found,) = transaction.latest_incidents({"dock"}, PRESENT).values()
        assert found == live
        transaction.save_revisions([by_rule(replace(live, closed_at=START, revision=2))])
        (found,) = transaction.latest_incidents({"dock"}, PRESENT).values()
    assert found.id == live.id


def test_coverage_of_the_future_hides_nothing_that_comes(store: AlertStore) -> None:
    def claim(start: datetime, end: datetime, state: CoverageState) -> Claim:
        return Claim(camera="dock", start=start, end=end, state=state)

    with store.transaction() as transaction:
        transaction.coverage.fold([claim(START - HOUR, START - MINUTE, SEEN)])
        transaction.coverage.fold([claim(START - MINUTE, START + 30 * DAY, DOWN)])
        transaction.coverage.fold([claim(START + 31 * DAY, START + 32 * DAY, SEEN)])
        (latest,) = transaction.coverage.fold([claim(START, START + MINUTE, SEEN)], PRESENT)
        assert latest is not None
        assert (latest.start, latest.end, latest.state) == (START, START + MINUTE, SEEN)
        assert transaction.coverage.latest("dock") == latest


def test_sweep_takes_back_what_was_seen_in_the_future(store: AlertStore) -> None:
    site = Site(store)
    site.live(1, "dock")
    (incident,) = store.incidents()
    with store.transaction() as transaction:
        ahead = replace(incident, last_seen_at=START + 30 * DAY, revision=2)
        transaction.save_revisions([by_rule(ahead)])
    site.live(1)
    (incident,) = store.incidents()
    assert incident.last_seen_at <= site.now
    site.live(20)
    (incident,) = store.incidents()
    assert incident.closed_because == "swept"


def test_group_that_is_due_in_the_future_is_looked_at_now(store: AlertStore) -> None:
    save_and_notify(store, an_open_incident(1), policy=NotificationPolicy())
    later = START + 30 * DAY
    assert dispatch_all(store, later, NotificationPolicy()) == 1
    first, second = an_open_incident(2), an_open_incident(3)
    save_and_notify(store, first, policy=NotificationPolicy())
    assert dispatch_all(store, START + HOUR, NotificationPolicy()) == 1
    save_and_notify(store, second, policy=NotificationPolicy())
    assert dispatch_all(store, START + HOUR + MINUTE / 2, NotificationPolicy()) == 0


def test_what_was_told_in_the_future_is_told_again(store: AlertStore) -> None:
    save_and_notify(store, an_open_incident(1))
    assert dispatch_all(store, START + 30 * DAY) == 1
    assert dispatch_all(store, START) == 1
    assert dispatch_all(store, START + HOUR) == 0
    assert dispatch_all(store, START + AT_ONCE.default.repeat_interval) == 1


def test_bucket_of_the_future_is_full() -> None:
    rate = MessageRate(count=60, per=HOUR)
    empty = TokenBucket(tokens=0.0, at=START + 30 * DAY)
    assert rate.refilled_bucket(empty, START) == TokenBucket(tokens=60.0, at=START)
    assert rate.refilled_bucket(replace(empty, at=START + MINUTE), START).tokens == 0.0
    assert RoutePolicy(rate_limit=rate).longest_wait == timedelta(minutes=5)


def test_delivery_that_was_tried_in_the_future_is_due(store: AlertStore) -> None:
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(an_incident())])
        transaction.deliveries.add(a_delivery(), b"{}", {an_incident().id: 1})
    tried = replace(a_delivery(), attempts=1, next_at=START + 31 * DAY)
    store.record_outcome(replace(tried, tried_at=START + 30 * DAY))
    assert store.next_delivery("soc", START) is not None
    assert Outbox(store).waiting_receivers(START) == {"soc": True}
    store.record_outcome(replace(tried, tried_at=START - MINUTE))
    assert store.next_delivery("soc", START) is None
    assert Outbox(store).waiting_receivers(START) == {"soc": False}


def test_breaker_that_opened_in_the_future_lets_through() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker = breaker.after(Retry(reason="down"), START + 30 * DAY)
    assert breaker.is_failing
    assert not breaker.can_post(START + 30 * DAY)
    assert breaker.can_post(START)
    assert breaker.after(Delivered(status=204), START) == Breaker()


def test_nothing_is_forgotten_for_its_age_while_the_clock_is_in_doubt() -> None:
    clock = [ClockReading(wall=START, monotonic=0.0)]
    done = list[datetime]()
    steady = ClockStability(clock=lambda: clock[-1])
    forget = skip_while_clock_unsteady(done.append, steady)
    log = MemoryLog(now=lambda: START)
    log.append(WINDOWS, "dock", b"a window")
    kept = [TopicRetention(topic=WINDOWS, keep_bytes=1000, keep_for=timedelta(minutes=1))]

    def at(hours: float, wrong: timedelta = timedelta()) -> None:
        wall = START + hours * HOUR + wrong
        clock.append(ClockReading(wall=wall, monotonic=3600 * hours))
        forget(wall)
        trim_topics(log, kept, steady)

    for hours in (0, 1, 5.9):
        at(hours)
    assert not done
    at(6)
    assert len(done) == 1
    for hours in (7, 8, 12.5):
        at(hours, 400 * DAY)
    assert len(done) == 1
    at(13)
    assert len(done) == 2
    assert log.start_offset(WINDOWS) == 1  # the log's own clock reads today's date


def test_log_keeps_what_is_old_by_a_clock_that_just_started() -> None:
    log = MemoryLog(now=lambda: START)
    log.append(WINDOWS, "dock", b"a window")
    kept = [TopicRetention(topic=WINDOWS, keep_bytes=1000, keep_for=timedelta(minutes=1))]
    trim_topics(log, kept, ClockStability())
    assert log.start_offset(WINDOWS) == 0
    trim_topics(log, kept)
    assert log.start_offset(WINDOWS) == 1


def test_silence_is_noticed_after_a_clock_that_was_ahead(store: AlertStore) -> None:
    unwatched = replace(HEALTH[0], name="nobody-watches", question="health/unwatched")
    site = Site(store, unwatched, cameras=("dock",))
    site.wrong = 30 * DAY
    site.restart()
    site.live(5, "dock")
    assert site.states("nobody-watches") == {}
    site.wrong = timedelta()
    site.live(5)
    assert site.states("nobody-watches") == {"dock": IncidentState.OPEN}
    (incident,) = store.incidents()
    assert START < incident.first_seen_at < site.now


def test_heart_beats_on_after_a_clock_that_was_ahead(store: AlertStore) -> None:
    heartbeat = Heartbeat(every=MINUTE, notify=("watchdog",))
    dispatcher = Dispatcher(
        store, NotificationPolicy(), heartbeat, ProgressCheck(MemoryLog(), store)
    )
    beats = [
        dispatcher.run_once(START + after)
        for after in (timedelta(), 30 * DAY, MINUTE, MINUTE + timedelta(seconds=30), 2 * MINUTE)
    ]
    assert beats == [1, 1, 1, 0, 1]

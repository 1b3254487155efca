"""Append times are the log's clock: nothing is decided by comparing them with a window's time.

The broker's clock is hours or minutes off that of the hosts, either way; or a leader moves to a
broker with another clock.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from pathlib import Path
from threading import Event

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from sqlalchemy import Engine
from structlog.testing import capture_logs

from alerts.evidence.keeper import EvidenceKeeper
from alerts.intake.coverage_writer import CoverageWriter
from alerts.intake.cursor import LogCursor
from alerts.intake.log_availability import LogAvailability
from alerts.intake.window_search import find_window
from alerts.rules.rule import Rule
from alerts.worker import BATCH, AlertsWorker
from analyzer.intake.queue import WindowQueue
from analyzer.intake.restore import CLOCK_SLACK, StateRestorer
from analyzer.intake.shedding import first_of_each_camera
from analyzer.kv.budget import MemoryPlan
from deploy.cli.commands.data.tail import _follow
from deploy.runtime.housekeeping import housekeeping
from kit.kafka.broker import Broker
from kit.simulation.coverage_simulation import StubWatcher
from kit.storage.fixtures import START, WINDOW_LENGTH, a_finding, a_window
from kit.waiting import wait_for
from storage.clock import ClockReading, CurrentTime
from storage.db.alert_store import AlertStore
from storage.db.rows.coverage import CoverageStore
from storage.log.clock_guard import ClockGuard, EntryTimestamp, is_clock_behind
from storage.log.dead_letters import read_dead_letters
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.log import KafkaLog
from storage.log.log import Log, LogEntry
from storage.log.memory_log import MemoryLog
from storage.records.claims import Claim, covered_span, encode_claim
from storage.records.records import (
    CoverageInterval,
    CoverageState,
    DeadLetter,
    EvidenceMoment,
    TimeSpan,
    Window,
)
from storage.records.topics import COVERAGE, DEAD_LETTERS, FINDINGS, WINDOWS
from storage.records.wire import encode_dead_letter, encode_finding, encode_window

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
NOTHING = timedelta()
OFF = [2 * HOUR, -2 * HOUR, 10 * MINUTE, -10 * MINUTE]
"""How far the clock of the log is ahead of the hosts'."""
A, WAITING, SHED = CoverageState.ANALYSED, CoverageState.WAITING, CoverageState.SHED
RULE = Rule(name="bag-left", question="bag", above=0.8, below=0.5)
LONG = 600
"""Windows of more than two hours."""
off = pytest.mark.parametrize("off", OFF, ids=str)


@dataclass
class AdjustableClock:
    """The true time, and how far ahead of it the clock of the log is."""

    now: datetime = START
    off: timedelta = NOTHING

    def __call__(self) -> datetime:
        return self.now + self.off

    def reading(self) -> ClockReading:
        return ClockReading(wall=self.now, monotonic=(self.now - START).total_seconds())


@pytest.fixture
def clock() -> AdjustableClock:
    return AdjustableClock()


@pytest.fixture
def log(clock: AdjustableClock) -> MemoryLog:
    return MemoryLog(now=clock)


def whole(number: int, camera: str = "dock", ahead: timedelta = NOTHING) -> Window:
    """Return a window that covers all of its time, cut on a host whose clock is ahead."""
    window = a_window(number, camera)
    stills = tuple(replace(still, at=still.at + ahead) for still in window.stills)
    covers = TimeSpan(start=stills[0].at, end=stills[0].at + WINDOW_LENGTH)
    return replace(window, stills=stills, after_gap=False, covers=covers)


@cache
def encoded(number: int, camera: str, ahead: timedelta) -> bytes:
    return encode_window(whole(number, camera, ahead))


def film(
    log: MemoryLog, *numbers: int, cameras: Sequence[str] = ("yard", "dock"), **ahead: timedelta
) -> None:
    """Put windows on the log when they end; the hosts of some cameras are ahead."""
    assert isinstance(log._now, AdjustableClock)
    for number in numbers:
        log._now.now = START + (number + 1) * WINDOW_LENGTH
        for camera in cameras:
            log.append(WINDOWS, camera, encoded(number, camera, ahead.get(camera, NOTHING)))


def claim(log: Log, state: CoverageState, *windows: Window) -> None:
    for window in windows:
        span = covered_span(window)
        claim_made = Claim(camera=window.camera, start=span.start, end=span.end, state=state)
        log.append(COVERAGE, window.camera, encode_claim(claim_made))


def ledger(engine: Engine, camera: str = "dock") -> list[CoverageInterval]:
    everything = TimeSpan(
        start=datetime(1970, 1, 1, tzinfo=UTC), end=datetime(9999, 1, 1, tzinfo=UTC)
    )
    return CoverageStore(engine).between(camera, everything)


def states(engine: Engine, camera: str = "dock") -> list[tuple[CoverageState, float]]:
    """Return the states of a camera, each with how many windows long it is."""
    return [(row.state, (row.end - row.start) / WINDOW_LENGTH) for row in ledger(engine, camera)]


def finding_of(window: Window, score: float = 0.9) -> bytes:
    found = replace(a_finding(0, score, window.camera), window_id=window.id, since=window.start)
    return encode_finding(replace(found, start=window.start, end=window.end))


def keeps_stills(
    log: Log, store: AlertStore, folder: Path, windows: Sequence[Window], clock: AdjustableClock
) -> None:
    """Let an incident begin in the second of three windows, and check its stills."""
    before, at, after = windows
    log.append(FINDINGS, at.camera, finding_of(at))
    AlertsWorker(log, store, [RULE], lambda _: None, clock=clock.reading).run_once()
    (incident,) = store.incidents()
    assert EvidenceKeeper(log, store, folder).run_once(clock.now) == 1
    kept = {each.moment: each.window_id for each in store.evidence(incident.id)}
    assert kept == dict(zip(EvidenceMoment, [before.id, at.id, after.id], strict=True))


@off
@pytest.mark.parametrize("number", [1, 300, LONG - 2])
def test_stills_are_found_whatever_the_clock_of_the_log_says(
    off: timedelta,
    number: int,
    log: MemoryLog,
    clock: AdjustableClock,
    store: AlertStore,
    tmp_path: Path,
) -> None:
    clock.off = off
    film(log, *range(LONG))
    expected = [whole(each) for each in (number - 1, number, number + 1)]
    keeps_stills(log, store, tmp_path, expected, clock)


@pytest.mark.parametrize("ahead", [-2 * HOUR, -10 * MINUTE], ids=str)
def test_stills_of_a_host_whose_clock_is_slow_are_found(
    ahead: timedelta, log: MemoryLog, clock: AdjustableClock, store: AlertStore, tmp_path: Path
) -> None:
    film(log, *range(LONG), dock=ahead)
    expected = [whole(each, ahead=ahead) for each in (400, 401, 402)]
    keeps_stills(log, store, tmp_path, expected, clock)


@off
@pytest.mark.parametrize("number", [250, 299, 301, 400])
def test_stills_are_found_where_the_clock_of_the_log_stepped(
    off: timedelta, number: int, log: MemoryLog, clock: AdjustableClock
) -> None:
    """A leader moved to a broker with another clock."""
    film(log, *range(300))
    clock.off = off
    film(log, *range(300, LONG))
    found = find_window(log, replace(a_finding(number), end=whole(number).end))
    assert found is not None
    assert (found.window, found.previous) == (whole(number), whole(number - 1))


@off
def test_what_waits_in_the_log_is_not_told_as_shed(
    off: timedelta, log: MemoryLog, clock: AdjustableClock, store: AlertStore, engine: Engine
) -> None:
    clock.off = off
    film(log, *range(LONG))
    claim(log, WAITING, *map(whole, range(LONG)))
    claim(log, A, *map(whole, range(100)))
    log.trim(WINDOWS, keep_bytes=bytes_of(log, 2 * 500), keep_for=timedelta(days=10_000))
    keeper = folded(CoverageWriter(log, store))
    for _ in range(3):
        keeper.sweep(clock.now)
    folded(keeper)
    assert states(engine) == [(A, 100), (WAITING, 500)]


@off
def test_what_the_log_dropped_before_it_was_read_is_told_as_shed(
    off: timedelta, log: MemoryLog, clock: AdjustableClock, store: AlertStore, engine: Engine
) -> None:
    clock.off = off
    film(log, *range(LONG))
    claim(log, WAITING, *map(whole, range(LONG)))
    claim(log, A, *map(whole, range(100)))
    keeper = folded(CoverageWriter(log, store))
    keeper.sweep(clock.now)
    log.trim(WINDOWS, keep_bytes=bytes_of(log, 2 * 200), keep_for=timedelta(days=10_000))
    keeper.sweep(clock.now)
    folded(keeper)
    assert states(engine) == [(A, 100), (SHED, 300), (WAITING, 200)]


@off
def test_each_camera_is_swept_by_its_own_clock(
    off: timedelta, log: MemoryLog, store: AlertStore, engine: Engine, clock: AdjustableClock
) -> None:
    clock.off = off
    film(log, *range(40), dock=-2 * HOUR)
    for camera, ahead in (("yard", NOTHING), ("dock", -2 * HOUR)):
        claim(log, WAITING, *(whole(number, camera, ahead) for number in range(40)))
    log.trim(WINDOWS, keep_bytes=bytes_of(log, 2 * 10), keep_for=timedelta(days=10_000))
    keeper = folded(CoverageWriter(log, store))
    keeper.sweep(clock.now)
    folded(keeper)
    assert states(engine, "dock") == states(engine, "yard") == [(SHED, 30), (WAITING, 10)]


def test_window_that_cannot_be_read_is_left_to_the_analyzer(
    log: MemoryLog, store: AlertStore, engine: Engine, clock: AdjustableClock
) -> None:
    film(log, *range(10))
    kept = log._partitions[WINDOWS].entries
    kept[1] = kept[1]._replace(value=b"damaged")
    kept[7] = kept[7]._replace(value=b"damaged")
    claim(log, WAITING, *map(whole, range(10)))
    keeper = folded(CoverageWriter(log, store))
    keeper.sweep(clock.now)
    claim(log, A, *map(whole, range(3)))
    folded(keeper)
    for _ in range(3):
        keeper.sweep(clock.now)
    folded(keeper)
    assert states(engine) == [(A, 3), (WAITING, 7)]


def test_camera_that_goes_on_is_looked_up_once(
    log: MemoryLog, store: AlertStore, clock: AdjustableClock
) -> None:
    """Where analysis follows, a sweep reads no windows."""
    keeper, read = CoverageWriter(log, store), list[str]()
    for number in range(6):
        film(log, number, cameras=["dock"])
        claim(log, WAITING, whole(number))
        claim(log, A, *map(whole, range(number)))
        folded(keeper)
        with reads_noted(log, read):
            keeper.sweep(clock.now)
        if number == 0:
            assert read
            read.clear()
    assert read == []


@contextmanager
def reads_noted(log: MemoryLog, noted: list[str]) -> Iterator[None]:
    class Noting(MemoryLog):
        def read(self, partition: str, *words: object, **other: object):  # type: ignore[no-untyped-def, override]
            noted.append(partition)
            return super().read(partition, *words, **other)  # type: ignore[arg-type]

    log.__class__ = Noting
    try:
        yield
    finally:
        log.__class__ = MemoryLog


def bytes_of(log: MemoryLog, count: int) -> int:
    """Return the size of the last windows."""
    return sum(
        len(entry.value) for entry in log.read(WINDOWS, log.end_offset(WINDOWS) - count, count)
    )


def folded(keeper: CoverageWriter) -> CoverageWriter:
    reading = LogCursor(keeper._log, keeper._store, LogAvailability())
    while pages := reading.read(BATCH):
        batch = keeper.decode(pages)
        assert batch is not None
        with reading.transaction(pages) as transaction:
            keeper.write(transaction, pages, batch)
    return keeper


@off
def test_claims_that_the_log_dropped_are_told_as_shed_up_to_the_first_that_it_kept(
    off: timedelta, log: MemoryLog, store: AlertStore, engine: Engine, clock: AdjustableClock
) -> None:
    """The gate fell silent meanwhile: what the others say is the best that is known of it."""
    clock.off = off
    for camera in ("dock", "gate"):
        claim(log, A, *(whole(number, camera) for number in range(10)))
    keeper = folded(CoverageWriter(log, store))
    clock.now = START + 200 * WINDOW_LENGTH
    for camera in ("dock", "gate"):
        claim(log, A, *(whole(number, camera) for number in range(10, 200)))
    log.trim(COVERAGE, keep_bytes=0, keep_for=timedelta(days=10_000))
    claim(log, CoverageState.CAMERA_DOWN, *(whole(number) for number in range(200, 220)))
    folded(keeper)
    down = CoverageState.CAMERA_DOWN
    assert states(engine, "dock") == [(A, 10), (SHED, 190), (down, 20)]
    assert states(engine, "gate") == [(A, 10), (SHED, 190)]


class RehearsingWatcher(StubWatcher):
    """A reader that keeps the windows of a rehearsal."""

    def __init__(self, plan: MemoryPlan) -> None:
        super().__init__([])
        self.plan = plan
        self.windows: list[Window] = []

    def restore(self, windows: Sequence[Window]) -> list[None]:
        self.windows += windows
        return [None] * len(windows)


def rehearsed(log: MemoryLog) -> list[tuple[str, datetime]]:
    """Return the camera and the end of the windows that a rehearsal reads, with a short horizon."""
    reader = RehearsingWatcher(MemoryPlan(horizon=10 * WINDOW_LENGTH))
    rehearsal = StateRestorer(log, reader, lambda: None)  # type: ignore[arg-type]
    end = log.end_offset(WINDOWS)
    rehearsal.restore_memories(WindowQueue(WINDOWS, end, 0), end)
    return [(each.camera, each.end) for each in reader.windows]


def of_horizon(camera: str, ahead: timedelta = NOTHING) -> list[tuple[str, datetime]]:
    newest = whole(199, camera, ahead).end
    ends = (whole(number, camera, ahead).end for number in range(200))
    return [(camera, end) for end in ends if end >= newest - 10 * WINDOW_LENGTH - CLOCK_SLACK]


@off
def test_rehearsal_reads_the_horizon_of_each_camera_whatever_the_clocks(
    off: timedelta, log: MemoryLog, clock: AdjustableClock
) -> None:
    """The hosts of the two cameras stamp what they append by clocks of their own."""
    for number in range(200):
        for camera, ahead in (("yard", NOTHING), ("dock", off)):
            clock.off = ahead
            film(log, number, cameras=[camera], dock=off)
    assert sorted(rehearsed(log)) == sorted([*of_horizon("yard"), *of_horizon("dock", off)])


@off
def test_rehearsal_reads_the_horizon_where_the_clock_of_the_log_stepped(
    off: timedelta, log: MemoryLog, clock: AdjustableClock
) -> None:
    film(log, *range(195))
    clock.off = off
    film(log, *range(195, 200))
    assert sorted(rehearsed(log)) == sorted([*of_horizon("yard"), *of_horizon("dock")])


def test_rehearsal_goes_back_no_further_for_cameras_that_fell_silent_or_are_new(
    log: MemoryLog, clock: AdjustableClock
) -> None:
    film(log, *range(150), cameras=["gone", "yard", "dock"])
    film(log, *range(150, 199))
    film(log, 199, cameras=["yard", "dock", "new"])
    read, first = list[str](), log.end_offset(WINDOWS)
    with positions_noted(log, read):
        found = rehearsed(log)
    assert sorted(found) == sorted(
        [*of_horizon("yard"), *of_horizon("dock"), ("new", whole(199, "new").end)]
    )
    assert first - min(map(int, read)) < 60


@contextmanager
def positions_noted(log: MemoryLog, noted: list[str]) -> Iterator[None]:
    class Noting(MemoryLog):
        def read(self, partition: str, offset: int, *words: object, **other: object):  # type: ignore[no-untyped-def, override]
            noted.append(str(offset))
            return super().read(partition, offset, *words, **other)  # type: ignore[arg-type]

    log.__class__ = Noting
    try:
        yield
    finally:
        log.__class__ = MemoryLog


def test_windows_of_a_camera_stay_in_order_where_the_clock_of_the_log_steps_back(
    log: MemoryLog, clock: AdjustableClock
) -> None:
    film(log, 0, 1)
    clock.off = -2 * HOUR
    film(log, 2, 3)
    queue = WindowQueue(WINDOWS, 0, 0)
    queue.take(log.read(WINDOWS, 0, 8))
    waiting = sorted(queue.pending(), key=lambda each: each.arrived_at)
    assert [each.offset for each in waiting] == list(range(8))
    assert {each.offset for each in first_of_each_camera(waiting)} == {0, 1}


def test_append_that_agrees_with_neither_clock_is_no_witness() -> None:
    """A camera is ahead and so is the broker, by another span: ours is no worse than theirs."""
    present = CurrentTime(now=START)

    def behind(camera: timedelta, broker: timedelta) -> bool:
        stamp = EntryTimestamp(camera="dock", at=START + camera, appended_at=START + broker)
        return is_clock_behind([stamp], present)

    assert behind(HOUR, HOUR + MINUTE)
    assert not behind(HOUR, NOTHING)
    assert not behind(10 * MINUTE, 2 * HOUR)
    assert not behind(2 * HOUR, 10 * MINUTE)


@off
@pytest.mark.parametrize("hosts", [NOTHING, -2 * HOUR, -10 * MINUTE], ids=str)
def test_reader_believes_its_clock_and_tells_the_time_by_the_cameras(
    off: timedelta, hosts: timedelta, log: MemoryLog, clock: AdjustableClock
) -> None:
    clock.off = off
    clock.now = START + WINDOW_LENGTH
    claim(log, WAITING, whole(0, ahead=hosts))
    for ours in (NOTHING, 3 * HOUR):
        guard = ClockGuard(
            log,
            clock=lambda ours=ours: ClockReading(wall=clock.now + ours, monotonic=0.0),  # type: ignore[misc]
        )
        assert guard.refresh()
        assert guard.bounded_now(clock.now + ours) == START + WINDOW_LENGTH + hosts


@off
def test_live_incident_is_not_swept_by_the_clock_of_the_log(
    off: timedelta, log: MemoryLog, clock: AdjustableClock, store: AlertStore
) -> None:
    """The reader's clock is ahead: what the cameras say is the time, not what the broker says."""
    clock.off = off

    def reading() -> ClockReading:
        return replace(clock.reading(), wall=clock.now + 3 * HOUR)

    worker = AlertsWorker(
        log, store, [RULE], lambda _: None, sweep_after=10 * MINUTE, clock=reading
    )
    for number in range(4):
        clock.now = START + (number + 1) * WINDOW_LENGTH
        claim(log, WAITING, whole(number))
        log.append(FINDINGS, "dock", finding_of(whole(number)))
        while worker.step():
            pass
    (incident,) = store.incidents()
    assert incident.is_live


def test_tail_shows_each_entry_once_and_each_part_in_order(clock: AdjustableClock) -> None:
    log = MemoryLog(partitions=3, now=clock)
    for number in range(12):
        clock.off = -2 * HOUR if number % 2 else NOTHING
        clock.now = START + number * WINDOW_LENGTH
        for camera in ("dock", "yard", "gate"):
            log.append(FINDINGS, camera, b"%d" % number)
    shown = list(islice(_follow(log, FINDINGS, from_start=True), 36))
    assert len({(entry.topic, entry.offset) for entry in shown}) == 36
    for camera in ("dock", "yard", "gate"):
        assert [int(e.value) for e in shown if e.key == camera] == list(range(12))


@pytest.mark.parametrize("stamp", [-1, 2**62, -(2**62)])
def test_stamp_out_of_range_ends_neither_tail_nor_the_list_of_the_dead(
    stamp: int, log: MemoryLog, store: AlertStore, tmp_path: Path, clock: AdjustableClock
) -> None:
    dead = DeadLetter(topic=FINDINGS, offset=0, key="dock", reason="no finding", value=b"?")
    log.append(DEAD_LETTERS, "dock", encode_dead_letter(dead))
    film(log, *range(10))
    for topic in (DEAD_LETTERS, WINDOWS):
        kept = log._partitions[topic].entries
        kept[:] = [LogEntry(*entry[:3], stamp, entry.value) for entry in kept]
    assert [(each.reason, at.isoformat()[:2] > "") for at, each in read_dead_letters(log)] == [
        ("no finding", True)
    ]
    assert len(list(islice(_follow(log, WINDOWS, from_start=True), 20))) == 20
    keeps_stills(log, store, tmp_path, [whole(each) for each in (4, 5, 6)], clock)
    CoverageWriter(log, store).sweep(clock.now)


def test_job_that_fails_neither_ends_nor_delays_another_and_is_said() -> None:
    done, slow = list[datetime](), Event()

    def break_down(now: datetime) -> None:
        raise OverflowError("date value out of range")

    def hang(now: datetime) -> None:
        slow.wait(10)

    every = timedelta(milliseconds=50)
    with (
        capture_logs() as log_lines,
        housekeeping(MemoryLog(), [], every=every, jobs=[break_down, hang, done.append]),
    ):
        wait_for(lambda: len(done) >= 5, 5)
        slow.set()
    told = [each for each in log_lines if each["event"] == "job failed"]
    assert len(told) >= 2
    assert (told[0]["job"], told[0]["log_level"]) == ("break_down", "error")
    assert told[0]["reason"] == "OverflowError: date value out of range"


def stamp_by_broker(kafka_config: KafkaConfig) -> None:
    """Let the broker stamp what is appended."""
    admin = KafkaAdminClient(bootstrap_servers=list(kafka_config.bootstrap))
    changed = {"message.timestamp.type": "LogAppendTime"}
    names = [kafka_config.prefix + topic for topic in (WINDOWS, FINDINGS, COVERAGE)]
    try:
        admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name, changed) for name in names]
        )
    finally:
        admin.close()


@pytest.mark.parametrize("hosts", [2 * HOUR, -10 * MINUTE], ids=str)
def test_kafka_that_stamps_by_its_own_clock_loses_no_stills_and_sheds_nothing(
    hosts: timedelta, kafka: Broker, store: AlertStore, engine: Engine, tmp_path: Path
) -> None:
    kafka_config = kafka.place(partitions=1)
    log = KafkaLog(kafka_config)
    stamp_by_broker(kafka_config)
    clock = AdjustableClock(now=datetime.now(UTC) + hosts)
    ahead = clock.now - START - 20 * WINDOW_LENGTH
    windows = [whole(number, ahead=ahead) for number in range(20)]
    for window in windows:
        log.append(WINDOWS, "dock", encode_window(window))
        claim(log, WAITING, window)
    (entry, *_) = log.read(f"{WINDOWS}-0", 0)
    assert abs(entry.at - datetime.now(UTC)) < MINUTE
    keeps_stills(log, store, tmp_path, windows[10:13], clock)
    keeper = folded(CoverageWriter(log, store, guard=ClockGuard(log, clock=clock.reading)))
    keeper.sweep(clock.now)
    folded(keeper)
    assert states(engine) == [(WAITING, 20)]
    log.close()

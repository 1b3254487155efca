"""What a camera's own process tells of its seconds, piece by piece."""

import itertools
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeAlias

import pytest
from structlog.testing import capture_logs

from ingest.camera import Camera
from ingest.errors import CameraLost, LossKind
from ingest.frames import CameraStream
from ingest.recording.claim_sender import ClaimSender
from ingest.recording.coverage import TOO_FEW_PICTURES, CoverageTracker, UncoveredSpan
from ingest.worker import CameraWorker
from kit.coverage.claims import at, second_of
from kit.ingest.fixtures import GStreamerServer, a_camera, run_camera_worker
from kit.ingest.recorder_driver import RecorderDriver
from kit.waiting import wait_for
from storage.errors import StorageFull, TooLarge
from storage.log.memory_log import MemoryLog
from storage.records.claims import Claim, decode_claim, encode_claim
from storage.records.records import ClockSource, CoverageState, Still, Window, WindowClock
from storage.records.topics import COVERAGE, WINDOWS

EPOCH = at(0).timestamp()
BROKEN, DOWN = CoverageState.STREAM_BROKEN, CoverageState.CAMERA_DOWN
SILENT, REFUSED = "it fell silent", "10.0.0.21 refuses the user or the password"
Told: TypeAlias = list[tuple[float | None, float, str]]


def a_window(start: float, *, gap: bool = False, stills: int = 4) -> Window:
    return Window(
        camera="dock",
        stills=tuple(
            Still(at=at(start + n), jpeg=b"jpeg", width=4, height=3) for n in range(stills)
        ),
        clock=WindowClock(source=ClockSource.RECEIVED, offset=0.0),
        after_gap=gap,
    )


def short(claims: list[Claim]) -> Told:
    return [
        (None if each.start is None else second_of(each.start), second_of(each.end), each.state)
        for each in claims
    ]


def an_account(began: float = 0.0, deadline: float = 6.0) -> CoverageTracker:
    tracker = CoverageTracker("dock", EPOCH + began, period=1.0, deadline=deadline)
    tracker.add_uncovered(a_cause(began, None, CoverageState.INGEST_DOWN))
    return tracker


def a_cause(
    start: float, end: float | None, state: CoverageState, reason: str = ""
) -> UncoveredSpan:
    ends = None if end is None else EPOCH + end
    return UncoveredSpan(start=EPOCH + start, end=ends, state=state, reason=reason)


def append_window(tracker: CoverageTracker, window: Window) -> Told:
    tracker.end_ongoing(window.start.timestamp())
    window, before = tracker.cover_window(window)
    return short(before + tracker.waiting_claims(window))


def test_first_window_says_that_nobody_watched_before() -> None:
    assert append_window(an_account(), a_window(3, gap=True)) == [
        (None, 0, "ingest_down"),
        (0, 3, "ingest_down"),
        (3, 7, "waiting"),
    ]


def test_windows_in_a_row_leave_nothing_between_them() -> None:
    tracker = an_account()
    append_window(tracker, a_window(0, gap=True))
    assert append_window(tracker, a_window(4.02)) == [(4, 8.02, "waiting")]
    assert append_window(tracker, a_window(7.99)) == [(8.02, 11.99, "waiting")]


def test_what_was_noted_of_a_gap_is_told_before_the_window_after_it() -> None:
    tracker = an_account()
    append_window(tracker, a_window(0, gap=True))
    tracker.add_uncovered(a_cause(6, 9, BROKEN, "no picture came for 3 s"))
    tracker.add_uncovered(a_cause(9, None, DOWN, SILENT))
    assert append_window(tracker, a_window(30, gap=True)) == [
        (4, 6, "stream_broken"),
        (6, 9, "stream_broken"),
        (9, 30, "camera_down"),
        (30, 34, "waiting"),
    ]


def test_camera_that_is_lost_is_told_so_far_and_then_on_each_time_with_its_reason() -> None:
    tracker = an_account()
    append_window(tracker, a_window(0, gap=True))
    claims = []
    for now, reason in ((20, SILENT), (30, REFUSED)):
        tracker.add_uncovered(a_cause(5 if now == 20 else 20, None, DOWN, reason))
        claims += tracker.claim_until(EPOCH + now, "too few pictures")
    tracker.end_ongoing(EPOCH + 33)
    _, before = tracker.cover_window(a_window(33, gap=True))
    _, later = tracker.cover_window(a_window(60, gap=True))
    assert [(*short([each])[0], each.reason) for each in [*claims, *before, *later]] == [
        (4, 5, "stream_broken", "too few pictures"),
        (5, 20, "camera_down", SILENT),
        (20, 30, "camera_down", REFUSED),
        (30, 33, "camera_down", REFUSED),
        (37, 60, "stream_broken", TOO_FEW_PICTURES),
    ]


def test_pause_of_ours_holds_over_what_the_camera_did_meanwhile() -> None:
    tracker = an_account()
    append_window(tracker, a_window(0, gap=True))
    tracker.add_uncovered(a_cause(5, 35, CoverageState.INGEST_DOWN, "did not run"))
    tracker.add_uncovered(a_cause(4, None, DOWN, SILENT))
    assert short(tracker.claim_until(EPOCH + 40, "")) == [
        (4, 5, "camera_down"),
        (5, 35, "ingest_down"),
        (35, 40, "camera_down"),
    ]


def test_what_no_window_came_of_is_overdue_after_the_deadline() -> None:
    tracker = an_account(deadline=6.0)
    append_window(tracker, a_window(0, gap=True))
    assert not tracker.is_overdue(EPOCH + 10)
    assert tracker.is_overdue(EPOCH + 10.1)
    assert short(tracker.claim_until(EPOCH + 10.1, "no picture comes")) == [
        (4, 10.1, "stream_broken")
    ]
    assert not tracker.is_overdue(EPOCH + 10.1)
    assert append_window(tracker, a_window(8)) == [(8, 12, "waiting")], (
        "a late window covers its own time"
    )


def test_break_shorter_than_a_period_is_no_gap() -> None:
    tracker = an_account()
    append_window(tracker, a_window(0, gap=True))
    assert append_window(tracker, a_window(4.5, gap=True)) == [(4, 8.5, "waiting")]


def test_clock_that_was_set_back_is_told_on_from_the_new_time() -> None:
    tracker = an_account()
    append_window(tracker, a_window(0, gap=True))
    tracker.add_uncovered(a_cause(50, None, DOWN, SILENT))
    tracker.claim_until(EPOCH + 60, "")
    tracker.set_clock(EPOCH + 60, -20)
    assert short(tracker.claim_until(EPOCH + 44, "")) == [(40, 44, "camera_down")]
    assert append_window(tracker, a_window(46, gap=True)) == [
        (44, 46, "camera_down"),
        (46, 50, "waiting"),
    ]


class FullLog(MemoryLog):
    is_full = True

    def append(self, topic: str, key: str, *values: bytes) -> int:
        if self.is_full:
            raise StorageFull("log.db")
        return super().append(topic, key, *values)


def test_what_a_full_disk_refused_is_told_first_when_there_is_space() -> None:
    log = FullLog()
    claim_sender, down = ClaimSender(log), CoverageState.INGEST_DOWN
    claims = [Claim(camera="dock", start=at(n), end=at(n + 4), state=down) for n in (0, 4)]
    for claim in claims:
        with pytest.raises(StorageFull):
            claim_sender.send([claim])
    log.is_full = False
    last = Claim(camera="dock", start=at(8), end=at(12), state=CoverageState.WAITING)
    claim_sender.send([last])
    claim_sender.send([])
    assert short([decode_claim(entry.value) for entry in log.read(COVERAGE, 0)]) == [
        (0, 8, "ingest_down"),
        (8, 12, "waiting"),
    ]
    assert encode_claim(last) == log.read(COVERAGE, 0)[-1].value


def test_claims_that_wait_for_a_disk_keep_their_reasons_apart() -> None:
    log, down = FullLog(), CoverageState.CAMERA_DOWN
    claim_sender = ClaimSender(log)
    for n, reason in enumerate([SILENT, SILENT, REFUSED]):
        claim = Claim(camera="dock", start=at(n), end=at(n + 1), state=down, reason=reason)
        with pytest.raises(StorageFull):
            claim_sender.send([claim])
    log.is_full = False
    claim_sender.send([])
    kept = [decode_claim(entry.value) for entry in log.read(COVERAGE, 0)]
    assert [(each.start, each.end, each.reason) for each in kept] == [
        (at(0), at(2), SILENT),
        (at(2), at(3), REFUSED),
    ]


def test_camera_that_does_not_answer_says_so_in_its_claim() -> None:
    log, stop = MemoryLog(), Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    camera = Camera(name="dock", url=f"http://guard:canary@127.0.0.1:{port}/")
    promised = list[float]()

    def promise(seconds: float) -> None:
        promised.append(seconds)
        if len(promised) == 2:  # one to connect, one when it is lost
            stop.set()

    CameraWorker(camera, log, promise).run(stop)
    (down,) = (claim for claim in claims_of(log) if claim.state is CoverageState.CAMERA_DOWN)
    assert down.reason.startswith(f"nothing answers at 127.0.0.1:{port}: check the port")
    assert b"canary" not in log.read(COVERAGE, 0)[-1].value


@pytest.mark.slow
def test_real_camera_that_goes_and_comes_back_is_accounted_for(rtsp: GStreamerServer) -> None:
    with run_camera_worker(a_camera(rtsp.url)) as watch:
        wait_for(lambda: len(watch.windows) > 1, 15)
        rtsp.kill()
        wait_for(lambda: watch.events("camera lost"), 10)
        wait_for(lambda: "camera_down" in {c.state for c in claims_of(watch.log)}, 5)
        seen = len(watch.windows)
        rtsp.start()
        wait_for(lambda: len(watch.windows) > seen, 30)
        wait_for(lambda: claims_of(watch.log)[-1].state == "waiting", 5)
    claims = [claim for claim in claims_of(watch.log) if claim.start is not None]
    for one, other in itertools.pairwise(claims):
        late = (
            other.start is not None and one.end > other.start and other.state == "waiting"
        )  # covers what was told before it
        assert one.end == other.start or late or other.state in ("frozen", "covered")
    covers = [window.covers for window in watch.windows]
    assert {(c.start, c.end) for c in claims if c.state == "waiting"} == {
        (each.start, each.end) for each in covers if each is not None
    }


def claims_of(log: object) -> list[Claim]:
    assert isinstance(log, MemoryLog)
    return [decode_claim(entry.value) for entry in log.read(COVERAGE, 0)]


class SmallRecordLog(MemoryLog):
    """A log that takes no window."""

    def append(self, topic: str, key: str, *values: bytes) -> int:
        if topic == WINDOWS:
            raise TooLarge("kafka", 9_000_000, 8_000_000)
        return super().append(topic, key, *values)


def test_window_too_large_for_the_log_is_told_and_the_camera_goes_on() -> None:
    log = SmallRecordLog()
    with capture_logs() as lines:
        live = RecorderDriver(log=log)
        live.feed(*range(40))
    claims = [decode_claim(entry.value) for entry in log.read(COVERAGE, 0)]
    lost = [claim for claim in claims if claim.reason.startswith("the log takes no windows")]
    assert short(lost) == [(4 * n, 4 * n + 4, "ingest_down") for n in range(10)]
    assert [line["event"] for line in lines].count("windows are being lost") == 1


class BreakingLog(MemoryLog):
    """A log that takes the claims of one loss, and then fails."""

    def append(self, topic: str, key: str, *values: bytes) -> int:
        if list(self.read(COVERAGE, 0)):
            raise RuntimeError("the log is broken")
        return super().append(topic, key, *values)


def test_failing_log_ends_the_worker_while_it_waits_for_the_next_try() -> None:
    def refuse(camera: Camera) -> CameraStream:
        raise CameraLost(camera.name, "the url is wrong", LossKind.SETTINGS)  # next try in 30 s

    stop, camera = Event(), a_camera("rtsp://127.0.0.1/x")
    worker = CameraWorker(camera, BreakingLog(), lambda _: None, open_stream=refuse)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(worker.run, stop)
        try:
            with pytest.raises(RuntimeError, match="the log is broken"):
                running.result(timeout=15)
        finally:
            stop.set()

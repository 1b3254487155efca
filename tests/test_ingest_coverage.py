"""What a camera's own process tells of its seconds, piece by piece."""

import itertools
import socket
from threading import Event
from typing import TypeAlias

import pytest
from coverage_fixtures import at, second_of
from ingest_fixtures import RtspServer, a_camera, wait_until, watching
from recorder_fixtures import Live
from structlog.testing import capture_logs

from ingest.account import TOO_FEW, Account, Cause
from ingest.camera import Camera
from ingest.teller import Teller
from ingest.worker import CameraWorker
from storage.claims import Claim, decode_claim, encode_claim
from storage.errors import StorageFull, TooLarge
from storage.log import COVERAGE, WINDOWS
from storage.memory_log import MemoryLog
from storage.records import Clock, ClockSource, CoverageState, Still, Window

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
        clock=Clock(source=ClockSource.RECEIVED, offset=0.0),
        after_gap=gap,
    )


def short(claims: list[Claim]) -> Told:
    return [
        (each.start and second_of(each.start), second_of(each.end), each.state) for each in claims
    ]


def an_account(began: float = 0.0, deadline: float = 6.0) -> Account:
    account = Account("dock", EPOCH + began, period=1.0, deadline=deadline)
    account.note(a_cause(began, None, CoverageState.INGEST_DOWN))
    return account


def a_cause(start: float, end: float | None, state: CoverageState, reason: str = "") -> Cause:
    ends = None if end is None else EPOCH + end
    return Cause(start=EPOCH + start, end=ends, state=state, reason=reason)


def told(account: Account, window: Window) -> Told:
    account.resume(window.start.timestamp())
    window, before = account.window(window)
    return short(before + account.kept(window))


def test_first_window_says_that_nobody_watched_before() -> None:
    assert told(an_account(), a_window(3, gap=True)) == [
        (None, 0, "ingest_down"),
        (0, 3, "ingest_down"),
        (3, 7, "waiting"),
    ]


def test_windows_in_a_row_leave_nothing_between_them() -> None:
    account = an_account()
    told(account, a_window(0, gap=True))
    assert told(account, a_window(4.02)) == [(4, 8.02, "waiting")]
    assert told(account, a_window(7.99)) == [(8.02, 11.99, "waiting")]


def test_what_was_noted_of_a_gap_is_told_before_the_window_after_it() -> None:
    account = an_account()
    told(account, a_window(0, gap=True))
    account.note(a_cause(6, 9, BROKEN, "no picture came for 3 s"))
    account.note(a_cause(9, None, DOWN, SILENT))
    assert told(account, a_window(30, gap=True)) == [
        (4, 6, "stream_broken"),
        (6, 9, "stream_broken"),
        (9, 30, "camera_down"),
        (30, 34, "waiting"),
    ]


def test_camera_that_is_lost_is_told_so_far_and_then_on_each_time_with_its_reason() -> None:
    account = an_account()
    told(account, a_window(0, gap=True))
    claims = []
    for now, reason in ((20, SILENT), (30, REFUSED)):
        account.note(a_cause(5 if now == 20 else 20, None, DOWN, reason))
        claims += account.tell(EPOCH + now, "too few pictures")
    account.resume(EPOCH + 33)
    _, before = account.window(a_window(33, gap=True))
    _, later = account.window(a_window(60, gap=True))
    assert [(*short([each])[0], each.reason) for each in [*claims, *before, *later]] == [
        (4, 5, "stream_broken", "too few pictures"),
        (5, 20, "camera_down", SILENT),
        (20, 30, "camera_down", REFUSED),
        (30, 33, "camera_down", REFUSED),
        (37, 60, "stream_broken", TOO_FEW),
    ]


def test_pause_of_ours_holds_over_what_the_camera_did_meanwhile() -> None:
    account = an_account()
    told(account, a_window(0, gap=True))
    account.note(a_cause(5, 35, CoverageState.INGEST_DOWN, "did not run"))
    account.note(a_cause(4, None, DOWN, SILENT))
    assert short(account.tell(EPOCH + 40, "")) == [
        (4, 5, "camera_down"),
        (5, 35, "ingest_down"),
        (35, 40, "camera_down"),
    ]


def test_what_no_window_came_of_is_overdue_after_the_deadline() -> None:
    account = an_account(deadline=6.0)
    told(account, a_window(0, gap=True))
    assert not account.is_overdue(EPOCH + 10)
    assert account.is_overdue(EPOCH + 10.1)
    assert short(account.tell(EPOCH + 10.1, "no picture comes")) == [(4, 10.1, "stream_broken")]
    assert not account.is_overdue(EPOCH + 10.1)
    assert told(account, a_window(8)) == [(8, 12, "waiting")], "a late window covers its own time"


def test_break_shorter_than_a_period_is_no_gap() -> None:
    account = an_account()
    told(account, a_window(0, gap=True))
    assert told(account, a_window(4.5, gap=True)) == [(4, 8.5, "waiting")]


def test_clock_that_was_set_back_is_told_on_from_the_new_time() -> None:
    account = an_account()
    told(account, a_window(0, gap=True))
    account.note(a_cause(50, None, DOWN, SILENT))
    account.tell(EPOCH + 60, "")
    account.set_clock(EPOCH + 60, -20)
    assert short(account.tell(EPOCH + 44, "")) == [(40, 44, "camera_down")]
    assert told(account, a_window(46, gap=True)) == [(44, 46, "camera_down"), (46, 50, "waiting")]


class FullLog(MemoryLog):
    is_full = True

    def append(self, topic: str, key: str, *values: bytes) -> int:
        if self.is_full:
            raise StorageFull("log.db")
        return super().append(topic, key, *values)


def test_what_a_full_disk_refused_is_told_first_when_there_is_space() -> None:
    log = FullLog()
    teller, down = Teller(log), CoverageState.INGEST_DOWN
    claims = [Claim(camera="dock", start=at(n), end=at(n + 4), state=down) for n in (0, 4)]
    for claim in claims:
        with pytest.raises(StorageFull):
            teller.tell([claim])
    log.is_full = False
    last = Claim(camera="dock", start=at(8), end=at(12), state=CoverageState.WAITING)
    teller.tell([last])
    teller.tell([])
    assert short([decode_claim(entry.value) for entry in log.read(COVERAGE, 0)]) == [
        (0, 8, "ingest_down"),
        (8, 12, "waiting"),
    ]
    assert encode_claim(last) == log.read(COVERAGE, 0)[-1].value


def test_claims_that_wait_for_a_disk_keep_their_reasons_apart() -> None:
    log, down = FullLog(), CoverageState.CAMERA_DOWN
    teller = Teller(log)
    for n, reason in enumerate([SILENT, SILENT, REFUSED]):
        claim = Claim(camera="dock", start=at(n), end=at(n + 1), state=down, reason=reason)
        with pytest.raises(StorageFull):
            teller.tell([claim])
    log.is_full = False
    teller.tell([])
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
def test_real_camera_that_goes_and_comes_back_is_accounted_for(rtsp: RtspServer) -> None:
    with watching(a_camera(rtsp.url)) as watch:
        wait_until(lambda: len(watch.windows) > 1, 15)
        rtsp.kill()
        wait_until(lambda: watch.events("camera lost"), 10)
        wait_until(lambda: "camera_down" in {c.state for c in claims_of(watch.log)}, 5)
        seen = len(watch.windows)
        rtsp.start()
        wait_until(lambda: len(watch.windows) > seen, 30)
        wait_until(lambda: claims_of(watch.log)[-1].state == "waiting", 5)
    claims = [claim for claim in claims_of(watch.log) if claim.start is not None]
    for one, other in itertools.pairwise(claims):
        late = one.end > other.start and other.state == "waiting"  # covers what was told before it
        assert one.end == other.start or late or other.state in ("frozen", "covered")
    covers = [window.covers for window in watch.windows]
    assert {(c.start, c.end) for c in claims if c.state == "waiting"} == {
        (each.start, each.end) for each in covers if each is not None
    }


def claims_of(log: object) -> list[Claim]:
    assert isinstance(log, MemoryLog)
    return [decode_claim(entry.value) for entry in log.read(COVERAGE, 0)]


class Narrow(MemoryLog):
    """A log that takes no window."""

    def append(self, topic: str, key: str, *values: bytes) -> int:
        if topic == WINDOWS:
            raise TooLarge("kafka", 9_000_000, 8_000_000)
        return super().append(topic, key, *values)


def test_window_too_large_for_the_log_is_told_and_the_camera_goes_on() -> None:
    log = Narrow()
    with capture_logs() as lines:
        live = Live(log=log)
        live.see(*range(40))
    claims = [decode_claim(entry.value) for entry in log.read(COVERAGE, 0)]
    lost = [claim for claim in claims if claim.reason.startswith("the log takes no windows")]
    assert short(lost) == [(4 * n, 4 * n + 4, "ingest_down") for n in range(10)]
    assert [line["event"] for line in lines].count("windows are being lost") == 1

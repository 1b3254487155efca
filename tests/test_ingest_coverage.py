"""What a camera's own process tells of its seconds, piece by piece."""

import itertools
import socket
from dataclasses import replace
from datetime import datetime, timedelta
from io import BytesIO
from threading import Event

import pytest
from coverage_fixtures import at, second_of
from ingest_fixtures import RtspServer, a_camera, wait_until, watching
from PIL import Image

from ingest.coverage import Account, Teller
from ingest.camera import Camera
from ingest.worker import CameraWorker
from storage.claims import Claim, decode_claim, encode_claim
from storage.errors import StorageFull, TooLarge
from storage.log import COVERAGE, WINDOWS
from storage.memory_log import MemoryLog
from storage.records import Clock, ClockSource, CoverageState, Still, Window

SECOND = timedelta(seconds=1)
SILENT, REFUSED = "it fell silent", "10.0.0.21 refuses the user or the password"
Told = list[tuple[float | None, float, str]]


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


def an_account(began: float = 0.0) -> Account:
    return Account("dock", at(began), SECOND)


def told(account: Account, window: Window, dropped: datetime | None = None) -> Told:
    window, before = account.window(window, dropped)
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


def test_gap_is_shed_as_far_as_there_were_pictures_and_then_the_camera_was_down() -> None:
    account = an_account()
    told(account, a_window(0, gap=True))
    assert told(account, a_window(30, gap=True), dropped=at(6)) == [
        (4, 7, "shed"),
        (7, 30, "camera_down"),
        (30, 34, "waiting"),
    ]


def test_camera_that_is_lost_is_told_so_far_and_then_on() -> None:
    account = an_account()
    told(account, a_window(0, gap=True))
    assert short(account.gone(at(20), at(5), SILENT)) == [(4, 6, "shed"), (6, 20, "camera_down")]
    assert short(account.gone(at(30), None, REFUSED)) == [(20, 30, "camera_down")]
    assert told(account, a_window(33, gap=True)) == [
        (30, 33, "camera_down"),
        (33, 37, "waiting"),
    ]


def test_each_second_without_a_picture_has_the_reason_known_of_it() -> None:
    account = an_account()
    told(account, a_window(0, gap=True))
    claims = [
        claim
        for end, why in ((20, SILENT), (30, REFUSED))
        for claim in account.gone(at(end), None, why)
    ]
    _, before = account.window(a_window(33, gap=True), None)
    _, later = account.window(a_window(60, gap=True), None)
    assert [(short([each])[0][:2], each.reason) for each in [*claims, *before, *later]] == [
        ((4, 20), SILENT),
        ((20, 30), REFUSED),
        ((30, 33), REFUSED),
        ((37, 60), ""),
    ]


def test_break_shorter_than_a_period_is_no_gap() -> None:
    account = an_account()
    told(account, a_window(0, gap=True))
    assert told(account, a_window(4.5, gap=True)) == [(4, 8.5, "waiting")]


def test_clock_that_was_set_back_tells_no_time_backwards() -> None:
    account = an_account()
    told(account, a_window(0, gap=True))
    account.gone(at(60), None, SILENT)
    assert told(account, a_window(40, gap=True)) == [(40, 44, "waiting")]
    assert told(account, a_window(44)) == []
    assert short(account.gone(at(50), None, SILENT)) == []


class FullLog(MemoryLog):
    is_full = True

    def append(self, topic: str, key: str, *values: bytes) -> int:
        if self.is_full:
            raise StorageFull("log.db")
        return super().append(topic, key, *values)


def test_what_a_full_disk_refused_is_told_first_when_there_is_space() -> None:
    log = FullLog()
    teller, shed = Teller(log), CoverageState.SHED
    claims = [Claim(camera="dock", start=at(n), end=at(n + 4), state=shed) for n in (0, 4)]
    for claim in claims:
        with pytest.raises(StorageFull):
            teller.tell([claim])
    log.is_full = False
    last = Claim(camera="dock", start=at(8), end=at(12), state=CoverageState.WAITING)
    teller.tell([last])
    teller.tell([])
    assert short([decode_claim(entry.value) for entry in log.read(COVERAGE, 0)]) == [
        (0, 8, "shed"),
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
        assert one.end == other.start or other.state in ("frozen", "covered")
    covers = [window.covers for window in watch.windows]
    assert {(c.start, c.end) for c in claims if c.state == "waiting"} == {
        (each.start, each.end) for each in covers if each is not None
    }


def claims_of(log: object) -> list[Claim]:
    assert isinstance(log, MemoryLog)
    return [decode_claim(entry.value) for entry in log.read(COVERAGE, 0)]


class Early(ReceiveClock):
    """A clock that stands where the first window begins."""

    def now(self) -> float:
        return at(0).timestamp()


class Narrow(MemoryLog):
    """A log that takes no window."""

    def append(self, topic: str, key: str, *values: bytes) -> int:
        if topic == WINDOWS:
            raise TooLarge("kafka", 9_000_000, 8_000_000)
        return super().append(topic, key, *values)


def test_window_too_large_for_the_log_is_shed_and_the_camera_goes_on() -> None:
    log, picture = Narrow(), BytesIO()
    Image.new("RGB", (96, 64)).save(picture, "JPEG")
    worker = CameraWorker(
        Camera(name="dock", url="rtsp://127.0.0.1/x"), log, lambda _: None, Early()
    )
    for start in (0, 16):
        window = a_window(start)
        seen = tuple(replace(still, jpeg=picture.getvalue()) for still in window.stills)
        worker._append(replace(window, stills=seen))
    claims = [decode_claim(entry.value) for entry in log.read(COVERAGE, 0)]
    assert [claim.state for claim in claims].count(CoverageState.SHED) == 2, claims

"""A camera that is slow, late, silent, asleep or unwilling, and how it is come back to."""

import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ingest.camera import Camera
from ingest.errors import CameraLost, LossKind
from ingest.frames import ReceivedFrame, StreamItem
from ingest.live.reconnect import ConnectionHistory, retry_delay
from ingest.live.source import CameraSource
from ingest.rtsp import preflight
from kit.certificates import self_signed
from kit.ingest.fixtures import a_camera, free_port, run_camera_worker, write_clip
from kit.ingest.rtsp_camera import Credentials, RtspCamera
from kit.waiting import wait_for


@pytest.fixture(scope="session", name="clip")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at 10 pictures a second, a keyframe each second."""
    return write_clip(tmp_path_factory.mktemp("clip") / "a.h264", frames=20)


@pytest.fixture(scope="session", name="long_clip")
def make_long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keyframe each 25 s, at 10 pictures a second."""
    return write_clip(tmp_path_factory.mktemp("clip") / "b.h264", frames=250, gop=250)


def sights(camera: Camera, until: float = 30.0) -> Iterator[StreamItem]:
    """Yield what a camera gives, for at most so many seconds."""
    began = time.monotonic()
    with CameraSource(camera) as source:
        for sight in source.frames():
            yield sight
            assert time.monotonic() - began < until


def first_picture(camera: Camera, until: float = 30.0) -> tuple[float, list[str]]:
    """Return how long the first picture took, and why there was none meanwhile."""
    began, reasons = time.monotonic(), list[str]()
    for sight in sights(camera, until):
        if isinstance(sight, ReceivedFrame):
            return time.monotonic() - began, reasons
        reasons.append(sight.reason)
    raise AssertionError("no picture came")


def why_lost(camera: Camera, history: ConnectionHistory | None = None) -> CameraLost:
    with pytest.raises(CameraLost) as lost, CameraSource(camera, history=history) as source:
        for _ in source.frames():
            pass
    assert "\n" not in lost.value.reason
    assert "secret" not in lost.value.reason
    return lost.value


def test_the_delay_depends_on_the_kind_of_loss() -> None:
    def delays(kind: LossKind, was_well: bool) -> list[float]:
        return [retry_delay(kind, times, 1.0, has_worked=was_well) for times in range(1, 7)]

    for was_well in (False, True):
        assert delays(LossKind.LOG_IN, was_well) == [1.0, 60.0, 300.0, 900.0, 900.0, 900.0]
        assert delays(LossKind.SILENT, was_well) == [0.0] * 6
        assert min(delays(LossKind.SETTINGS, was_well)) >= 30.0
    assert delays(LossKind.GONE, False) == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert max(delays(LossKind.GONE, True)) <= 5.0


def test_refused_log_ins_are_counted_on_whatever_comes_in_between() -> None:
    history = ConnectionHistory(a_camera("rtsp://camera/sub"))
    kinds = (LossKind.LOG_IN, LossKind.GONE, LossKind.LOG_IN, LossKind.SILENT, LossKind.LOG_IN)
    assert [history.record_loss(kind, 0.0) for kind in kinds] == [1.0, 1.0, 60.0, 0.0, 300.0]
    history.record_picture(5.0)
    assert history.record_loss(LossKind.LOG_IN, 0.0) == 1.0


def test_patience_is_three_measured_steps_where_the_camera_is_slow() -> None:
    history = ConnectionHistory(a_camera("rtsp://camera/sub", fps=1.0))
    history.record_picture(0.0)
    assert history.stall_timeout == 30.0
    for number in range(1, 4):
        history.record_picture(number * 12.0)
    assert history.stall_timeout == 36.0
    history.start_connection()
    history.record_picture(1000.0)
    assert history.stall_timeout == 36.0
    for number in range(1, 6):
        history.record_picture(1000.0 + number * 0.1)
    assert history.stall_timeout == 10.0
    assert ConnectionHistory(a_camera("rtsp://camera/sub", fps=0.05)).stall_timeout == 60.0


def test_a_source_that_is_started_on_demand_is_waited_for(clip: Path) -> None:
    with RtspCamera(clip, start_up=4.0) as camera:
        took, _ = first_picture(a_camera(camera.url))
        assert 4.0 < took < 7.0
        wait_for(lambda: not camera.readers, 3)
        took, _ = first_picture(a_camera(camera.url))
        assert 4.0 < took < 7.0, "it was cold again"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_source_on_demand_is_back_at_once_however_long_it_was_away(clip: Path) -> None:
    with (
        RtspCamera(clip, start_up=12.0) as camera,
        run_camera_worker(a_camera(camera.url)) as watch,
    ):
        took = wait_for(lambda: watch.windows, 30)
        assert 12.0 < took < 12.0 + 5.0
        camera.kill()
        wait_for(lambda: watch.events("camera lost"), 10)
        time.sleep(20)
        known = len(watch.windows)
        camera.start()
        assert wait_for(lambda: len(watch.windows) > known, 40) < 12.0 + 10.0
        log_lines = watch.events("camera lost")
        assert max(line["retry_in"] for line in log_lines) <= 5.0


def test_silence_behind_a_good_play_is_waited_out(clip: Path) -> None:
    with RtspCamera(clip, silence=7.0) as camera:
        took, reasons = first_picture(a_camera(camera.url))
    assert 7.0 < took < 10.0
    assert set(reasons) == {"the camera answers, no picture yet"}


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("holds", [False, True])
def test_a_first_keyframe_is_waited_for(long_clip: Path, holds: bool) -> None:
    with RtspCamera(long_clip, starts_at_key=False, holds_until_key=holds) as camera:
        camera.began -= 5.0
        took, reasons = first_picture(a_camera(camera.url))
    assert 19.0 < took < 23.0
    reason = "the camera answers, no picture yet" if holds else "waiting for a keyframe"
    assert reason in reasons
    assert len(set(reasons)) < 4


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_picture_every_five_seconds_makes_windows(clip: Path) -> None:
    with RtspCamera(clip, fps=0.2) as camera:
        slow = a_camera(camera.url, fps=0.2)
        with run_camera_worker(slow) as watch:
            wait_for(lambda: watch.windows, 40)
        assert not watch.events("camera lost")
        assert min(watch.keepalives) >= 15.0


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_stall_of_the_network_loses_no_picture_and_no_stamp(clip: Path) -> None:
    with RtspCamera(clip) as camera:
        frames: list[ReceivedFrame] = []
        for sight in sights(a_camera(camera.url)):
            assert isinstance(sight, ReceivedFrame), sight
            frames.append(sight)
            if len(frames) == 20:
                camera.stall(5.0)
            if len(frames) == 90:
                break
    stamps = [frame.pts for frame in frames[1:] if frame.pts is not None]
    assert len(stamps) == 89
    steps = [after - before for before, after in itertools.pairwise(stamps)]
    assert steps == pytest.approx([0.1] * 88, abs=0.01)
    assert max(after.arrived - before.arrived for before, after in itertools.pairwise(frames)) > 4.0


def show_arrivals(url: str, arrivals: "multiprocessing.connection.Connection") -> None:
    """Send what a camera gives, in a process of its own, until it is lost."""
    history = ConnectionHistory(a_camera(url))
    try:
        with CameraSource(a_camera(url), history=history) as source:
            for sight in source.frames():
                history.record_picture(sight.arrived)
                arrivals.send(sight.arrived)
    except CameraLost as lost:
        arrivals.send(lost.reason)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_pause_of_ours_is_not_taken_for_a_silent_camera(clip: Path) -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")
    with RtspCamera(clip) as camera:
        process = context.Process(target=show_arrivals, args=(camera.url, theirs), daemon=True)
        process.start()
        for _ in range(10):
            assert isinstance(ours.recv(), float)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(14)
        os.kill(process.pid, signal.SIGCONT)
        for _ in range(160):
            assert isinstance(ours.recv(), float)
        process.kill()
        process.join()


@contextmanager
def stopped_soon(seconds: float) -> Iterator[threading.Event]:
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    yield stop
    timer.join()


@pytest.mark.parametrize("habit", [{"start_up": 60.0}, {"silence": 60.0}, {"hang": True}])
def test_a_stop_ends_every_wait_at_once(clip: Path, habit: dict[str, Any]) -> None:
    hangs = habit.pop("hang", False)
    with RtspCamera(clip, **habit) as camera:
        with stopped_soon(2.0) as stop, CameraSource(a_camera(camera.url), stop) as source:
            for _ in source.frames():
                if hangs:
                    camera.hang()
            assert stop.is_set()
            left = time.monotonic()
        assert time.monotonic() - left < 1.5
        camera.is_hung = False
        wait_for(lambda: not camera.readers, 3)


def test_nothing_is_left_of_a_stream_that_fell_silent(clip: Path) -> None:
    before = threading.active_count()
    with RtspCamera(clip) as camera:
        history = ConnectionHistory(a_camera(camera.url))
        with CameraSource(a_camera(camera.url), history=history) as source:
            next(source.frames())
            camera.hang()
            time.sleep(0.5)
        wait_for(lambda: not any(each.name == "reader" for each in threading.enumerate()), 2)
    wait_for(lambda: threading.active_count() <= before, 3)


@pytest.mark.parametrize("scheme", ["MD5", "Basic"])
def test_refused_log_ins_become_seldom(clip: Path, scheme: str) -> None:
    who = Credentials(password="secret", schemes=(scheme,))
    with RtspCamera(clip, credentials=who) as camera:
        url = camera.url.replace("secret", "another")
        with run_camera_worker(a_camera(url)) as watch:
            wait_for(lambda: len(watch.events("camera lost")) > 1, 10)
            time.sleep(0.5)
        lost = watch.events("camera lost")
        assert [line["retry_in"] for line in lost] == [1.0, 60.0]
        assert len(camera.failed_log_ins) == 2
        assert "check both in the url" in lost[0]["reason"]
        assert "may have locked the user out" in lost[1]["reason"]
        assert max(watch.keepalives) > 60.0


def test_a_camera_that_took_the_password_before_may_have_locked_us_out(clip: Path) -> None:
    with RtspCamera(clip, credentials=Credentials()) as camera:
        with run_camera_worker(a_camera(camera.url)) as watch:
            wait_for(lambda: watch.events("camera connected"), 10)
            camera.habits.credentials = Credentials(password="changed")
            camera.kill()
            camera.start()
            wait_for(lambda: len(watch.events("camera lost")) > 2, 20)
        waits = [(line["retry_in"], line["reason"]) for line in watch.events("camera lost")[-2:]]
    assert [wait for wait, _ in waits] == [1.0, 60.0]
    assert all("may have locked the user out" in reason for _, reason in waits)


@pytest.mark.parametrize("offers", [("MD5",), ("SHA-256", "MD5"), ("Basic", "MD5"), ("Basic",)])
def test_a_camera_is_logged_in_to_with_what_it_offers(clip: Path, offers: tuple[str, ...]) -> None:
    with RtspCamera(clip, credentials=Credentials(schemes=offers)) as camera:
        first_picture(a_camera(camera.url))


@pytest.mark.parametrize("offers", [("SHA-256",), ("MD5", "SHA-256")])
def test_a_digest_that_is_not_known_is_named_and_nothing_tried(
    clip: Path, offers: tuple[str, ...]
) -> None:
    with RtspCamera(clip, credentials=Credentials(schemes=offers)) as camera:
        lost = why_lost(a_camera(camera.url))
        assert not camera.failed_log_ins
    assert "SHA-256" in lost.reason
    assert "digest algorithm" in lost.reason
    assert "to MD5" in lost.reason
    assert lost.kind is LossKind.SETTINGS


@pytest.mark.parametrize(
    ("habits", "kind", "words"),
    [
        ({"statuses": {"DESCRIBE": 404}}, LossKind.GONE, "no such stream: check the path"),
        ({"statuses": {"DESCRIBE": 400}}, LossKind.GONE, "too many clients watch or its source"),
        ({"statuses": {"DESCRIBE": 403}}, LossKind.LOG_IN, "not show this stream to this user"),
        ({"statuses": {"SETUP": 453}}, LossKind.GONE, "raise its number of streams or users"),
        ({"statuses": {"PLAY": 453}}, LossKind.GONE, "raise its number of streams or users"),
        ({"statuses": {"DESCRIBE": 500}}, LossKind.GONE, "an internal error"),
        ({"only_udp": True}, LossKind.GONE, "not send over tcp (461): set `transport: udp`"),
        ({"credentials": Credentials()}, LossKind.LOG_IN, "write both in the url"),
    ],
)
def test_each_refusal_says_what_to_do(
    clip: Path, habits: dict[str, Any], kind: LossKind, words: str
) -> None:
    with RtspCamera(clip, **habits) as camera:
        lost = why_lost(a_camera(f"rtsp://{camera.address}/cam"))
    assert words in lost.reason
    assert lost.reason.startswith(camera.address)
    assert lost.kind is kind


def test_a_path_that_worked_a_minute_ago_is_not_to_be_checked(clip: Path) -> None:
    with RtspCamera(clip) as camera, run_camera_worker(a_camera(camera.url)) as watch:
        wait_for(lambda: watch.events("camera connected"), 10)
        camera.habits.statuses["DESCRIBE"] = 404
        camera.kill()
        camera.start()
        wait_for(
            lambda: any("any more" in each["reason"] for each in watch.events("camera lost")), 20
        )
        camera.habits.statuses.clear()
        known = len(watch.windows)
        assert wait_for(lambda: len(watch.windows) > known, 20) < 10.0


def test_udp_is_watched_where_it_alone_is_offered(clip: Path) -> None:
    with RtspCamera(clip, only_udp=True) as camera:
        first_picture(a_camera(camera.url, transport="udp"))


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_host_that_takes_connections_and_says_nothing_is_told_and_tried_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        lost = why_lost(a_camera(f"rtsp://127.0.0.1:{mute.getsockname()[1]}/cam"))
        assert 18 < time.monotonic() - began < 23
    assert "does not answer in time: no picture yet" in lost.reason
    assert lost.kind is LossKind.SILENT


def test_a_host_that_drops_connections_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "CONNECT_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as held:
        for _ in range(2):  # what goes beyond its backlog is dropped
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        began = time.monotonic()
        lost = why_lost(a_camera(f"rtsp://127.0.0.1:{full.getsockname()[1]}/cam"))
        assert time.monotonic() - began < 2.0
    assert "nothing answers" in lost.reason
    assert lost.kind is LossKind.GONE


@pytest.fixture(name="tls")
def make_tls(tmp_path: Path) -> ssl.SSLContext:
    pair, tls = self_signed(tmp_path, "camera"), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.certificate, pair.key)
    return tls


def test_rtsp_to_the_tls_port_is_told(clip: Path, tls: ssl.SSLContext) -> None:
    with RtspCamera(clip, tls=tls, credentials=Credentials()) as camera:
        lost = why_lost(a_camera(camera.url.replace("rtsps://", "rtsp://")))
    assert "speaks rtsps:// at this port, not rtsp://" in lost.reason
    assert lost.kind is LossKind.SETTINGS


def test_rtsps_to_the_plain_port_is_told(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "CONNECT_TIMEOUT", 1.0)
    with RtspCamera(clip, credentials=Credentials()) as camera:
        lost = why_lost(a_camera(camera.url.replace("rtsp://", "rtsps://")))
    assert "speaks rtsp:// at this port, not rtsps://" in lost.reason
    assert lost.kind is LossKind.SETTINGS


def test_an_unchecked_certificate_is_told_once(clip: Path, tls: ssl.SSLContext) -> None:
    with RtspCamera(clip, tls=tls) as camera, run_camera_worker(a_camera(camera.url)) as watch:
        wait_for(lambda: watch.events("camera connected"), 10)
        camera.kill()
        camera.start()
        wait_for(lambda: len(watch.events("camera connected")) > 1, 20)
    (line,) = watch.events("the camera's certificate is not checked: trust the network to it")
    assert line["log_level"] == "info"
    assert {each["size"] for each in watch.events("camera connected")} == {"320x240"}


def test_a_closed_port_is_gone() -> None:
    lost = why_lost(a_camera(f"rtsp://127.0.0.1:{free_port()}/cam"))
    assert "nothing answers" in lost.reason
    assert lost.kind is LossKind.GONE

"""A camera worker against a real RTSP server that fails in all the ways cameras do."""

import signal
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from ingest.errors import BadAddress, CameraLost
from ingest.frames import NoPicture
from ingest.live.source import CameraSource
from ingest.probe.probe import probe
from ingest.settings import DecodeSettings
from ingest.worker import CameraWorker
from kit.ingest.fixtures import (
    CANARY,
    Clips,
    GStreamerServer,
    a_camera,
    free_port,
    playlist,
    run_camera_worker,
)
from kit.storage.fixtures import fill_disk, small_disk
from kit.waiting import wait_for
from storage.log.memory_log import MemoryLog
from storage.log.sqlite.log import SqliteLog
from storage.records.records import ClockSource, Window


def strictly_increase(windows: list[Window]) -> bool:
    stills = [still.at for window in windows for still in window.stills]
    return all(earlier < later for earlier, later in pairwise(stills))


def test_a_camera_becomes_windows_in_its_own_time(rtsp: GStreamerServer) -> None:
    began = datetime.now(UTC)
    with run_camera_worker(a_camera(rtsp.url)) as watch:
        wait_for(lambda: watch.events("camera clock used"), 20)
    windows = watch.windows
    assert [window.after_gap for window in windows] == [True] + [False] * (len(windows) - 1)
    assert {len(window.stills) for window in windows} == {4}
    assert strictly_increase(windows)
    assert windows[-1].clock.source is ClockSource.CAMERA_NTP
    assert -0.5 < windows[-1].clock.offset < 0.1
    assert began - timedelta(seconds=1) < windows[0].start < windows[-1].end < datetime.now(UTC)
    assert min(watch.keepalives) == 15.0
    assert len(watch.keepalives) > 8 * len(windows)


def test_a_camera_is_watched_over_udp_until_it_is_told_to_stop(rtsp: GStreamerServer) -> None:
    with run_camera_worker(a_camera(rtsp.url, transport="udp")) as watch:
        wait_for(lambda: watch.windows, 20)
        asked = time.monotonic()
    assert time.monotonic() - asked < 1.0
    assert not watch.events("camera lost")


def test_a_change_of_size_starts_a_new_window_with_a_gap(gstreamer: None, clips: Clips) -> None:
    with (
        GStreamerServer(clip=clips.resized) as server,
        run_camera_worker(a_camera(server.url)) as watch,
    ):
        wait_for(
            lambda: {still.width for w in watch.windows for still in w.stills} == {320, 640}, 20
        )
    windows = watch.windows
    sizes = [{still.width for still in window.stills} for window in windows]
    assert all(len(size) == 1 for size in sizes)
    first_large = sizes.index({640})
    assert [window.after_gap for window in windows[: first_large + 1]] == (
        [True] + [False] * (first_large - 1) + [True]
    )
    assert not watch.events("camera lost")


def test_a_killed_camera_is_lost_and_watched_again_when_it_is_back(rtsp: GStreamerServer) -> None:
    with run_camera_worker(a_camera(rtsp.url)) as watch:
        wait_for(lambda: watch.windows, 10)
        rtsp.kill()
        wait_for(lambda: watch.events("camera lost"), 10)
        seen = len(watch.windows)
        rtsp.start()
        wait_for(lambda: len(watch.windows) > seen + 1, 20)
        known = len(watch.events("camera lost"))
        rtsp.kill()
        wait_for(lambda: len(watch.events("camera lost")) > known, 10)
    assert "the stream ended" in watch.events("camera lost")[0]["reason"]
    assert [window.after_gap for window in watch.windows[seen : seen + 2]] == [True, False]
    assert strictly_increase(watch.windows)
    assert [line["attempt"] for line in watch.events("camera lost")][known - 1 : known + 1] == [
        known,
        1,
    ]
    waits = [line["retry_in"] for line in watch.events("camera lost")]
    assert max(waits) <= 4.0


@pytest.mark.slow
def test_a_camera_that_hangs_is_lost_after_its_patience(rtsp: GStreamerServer) -> None:
    with run_camera_worker(a_camera(rtsp.url)) as watch:
        wait_for(lambda: watch.windows, 10)
        rtsp.signal(signal.SIGSTOP)
        assert 9 < wait_for(lambda: watch.events("camera lost"), 14) < 12.5
    assert "fell silent" in watch.events("camera lost")[0]["reason"]


def test_a_full_disk_loses_windows_with_one_line_and_marks_the_gap(
    rtsp: GStreamerServer, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        log = SqliteLog(disk / "log.db")
        with run_camera_worker(a_camera(rtsp.url), log) as watch:
            wait_for(lambda: watch.windows, 10)
            ballast = fill_disk(disk)
            wait_for(lambda: watch.events("windows are being lost"), 20)
            before = len(watch.windows)
            time.sleep(1.5)
            ballast.unlink()
            wait_for(lambda: len(watch.windows) > before + 1, 20)
        windows = watch.windows
        log.close()
    assert [window.after_gap for window in windows[before : before + 2]] == [True, False]
    assert not any(window.after_gap for window in windows[1:before])
    (line,) = watch.events("windows are being lost")
    assert "free some space" in line["reason"]
    assert not watch.events("camera lost")


def a_picture() -> bytes:
    picture = BytesIO()
    Image.new("RGB", (320, 240), (90, 90, 90)).save(picture, "JPEG")
    return picture.getvalue()


class WebHandler(BaseHTTPRequestHandler):
    """What a web server may send instead of video, and cameras of 8 JPEG pictures a second."""

    def do_GET(self) -> None:
        self.send_response(200)
        match self.path.split("?"):
            case ["/page"]:
                self.body("text/html", b"<html><body>Log in</body></html>" * 100)
            case ["/list.m3u8", clip]:
                self.body("application/x-mpegurl", playlist(f"file://{clip}"))
            case ["/picture"]:
                self.body("image/jpeg", a_picture())
            case ["/picture", _]:
                self.body("image/jpeg", a_picture(), is_sized=False)
            case ["/video"]:
                self.pictures(good=10_000)
            case _:
                self.pictures(good=4)

    def body(self, kind: str, content: bytes, *, is_sized: bool = True) -> None:
        self.send_header("Content-Type", kind)
        if is_sized:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def pictures(self, good: int) -> None:
        """Send so many pictures, then as many more that are cut off."""
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        picture = a_picture()
        with suppress(ConnectionError):
            for number in range(2 * good + 100):
                content = picture if number < good else picture[:40]
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
                self.wfile.write(b"--next\r\n" + head.encode() + content + b"\r\n")
                time.sleep(0.125)

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), WebHandler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_motion_jpeg_over_http_goes_by_the_time_it_is_received(web: str) -> None:
    began = time.monotonic()
    with run_camera_worker(a_camera(f"http://{web}/video")) as watch:
        wait_for(lambda: len(watch.windows) > 1, 15)
        lasted = time.monotonic() - began
    windows = watch.windows
    assert (windows[1].end - windows[0].start).total_seconds() == pytest.approx(lasted, abs=1.0)
    assert {window.clock.source for window in windows} == {ClockSource.RECEIVED}
    assert [window.after_gap for window in windows[:2]] == [True, False]


@pytest.mark.slow
def test_a_camera_whose_video_cannot_be_decoded_is_lost_within_ten_seconds(web: str) -> None:
    with run_camera_worker(a_camera(f"http://{web}/garbled")) as watch:
        assert wait_for(lambda: watch.events("camera lost"), 12) < 11
    assert "cannot be decoded" in watch.events("camera lost")[0]["reason"]


def test_what_is_damaged_is_named_as_such(web: str) -> None:
    reasons = []
    with CameraSource(
        a_camera(f"http://{web}/garbled", decode=DecodeSettings(frames="all"))
    ) as source:
        for sight in source.frames():
            if isinstance(sight, NoPicture):
                reasons.append(sight.reason)
            if len(reasons) > 2:
                break
    assert set(reasons) == {"damaged video was skipped"}


@pytest.mark.parametrize("path", ["/picture", "/picture?endless"])
def test_a_url_of_single_pictures_is_named_and_seldom_tried(web: str, path: str) -> None:
    with run_camera_worker(a_camera(f"http://{web}{path}")) as watch:
        wait_for(lambda: watch.events("camera lost"), 10)
    (line,) = watch.events("camera lost")
    assert "one picture per request, not a stream" in line["reason"]
    assert line["retry_in"] >= 30.0


def why_lost(url: str) -> str:
    """Return why the camera cannot be opened; fail if that takes long or tells the password."""
    with pytest.raises(CameraLost) as lost, CameraSource(a_camera(url)) as source:
        next(source.frames())
    expected = f"{lost.value!r} {''.join(traceback.format_exception(lost.value))}"
    assert "\n" not in lost.value.reason
    assert "na/ry" not in expected
    assert "na%2Fry" not in expected
    return lost.value.reason


SECRET = "ca%40na%2Fry%3Apw"


def test_a_wrong_password_is_told_plainly(gstreamer: None, clips: Clips) -> None:
    with GStreamerServer(clip=clips.plain, user="viewer", password="another") as server:
        reason = why_lost(replace(server, password=CANARY).url)
        assert reason == (
            f"127.0.0.1:{server.port} refuses the user or the password: check both in the url"
        )


def test_a_password_of_odd_letters_is_let_in(gstreamer: None, clips: Clips) -> None:
    with GStreamerServer(clip=clips.plain, user="viewer", password=CANARY) as server:
        assert SECRET in server.url
        with CameraSource(a_camera(server.url)) as source:
            assert source.width == 320


def test_an_unknown_path_is_told_plainly(rtsp: GStreamerServer) -> None:
    assert "no such stream: check the path" in why_lost(rtsp.url + "nothing")


def test_a_closed_port_is_told_plainly() -> None:
    port = free_port()
    reason = why_lost(f"rtsp://viewer:{SECRET}@127.0.0.1:{port}/cam")
    assert (
        reason == f"nothing answers at 127.0.0.1:{port}: check the port, and that the camera is up"
    )


def test_an_unknown_host_is_told_plainly() -> None:
    reason = why_lost(f"rtsp://viewer:{SECRET}@camera.invalid/cam")
    assert reason.startswith("the host of camera.invalid is not known")


def test_a_web_page_is_no_video(web: str) -> None:
    assert f"{web} sends no video" in why_lost(f"http://viewer:{SECRET}@{web}/page")


def test_a_playlist_cannot_make_us_open_our_own_files(web: str, clips: Clips) -> None:
    why_lost(f"http://{web}/list.m3u8?{clips.resized_file}")


def test_a_url_that_can_be_read_in_two_ways_connects_nowhere() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"rtsp://viewer:ca@127.0.0.1:{server.getsockname()[1]}/na/ry@camera/sub"
        with pytest.raises(BadAddress, match="%2F"):
            probe(url)
        with pytest.raises(BadAddress, match="%2F"):
            CameraSource(a_camera(url))
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_password_reaches_a_log_line(
    gstreamer: None, clips: Clips, capfd: pytest.CaptureFixture[str]
) -> None:
    with GStreamerServer(clip=clips.plain, user="viewer", password=CANARY) as server:
        url = server.url
        worker = CameraWorker(a_camera(url), MemoryLog(), lambda _seconds: None)
        stop = threading.Event()
        thread = threading.Thread(target=worker.run, args=(stop,))
        thread.start()
        time.sleep(1.5)
        server.kill()
        time.sleep(1.0)
        stop.set()
        thread.join()
    printed = "".join(capfd.readouterr())
    assert "camera connected" in printed
    assert "camera lost" in printed
    assert "na/ry" not in printed
    assert "na%2Fry" not in printed

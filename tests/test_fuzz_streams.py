"""Whatever a camera says and sends, the source gives pictures or one line about why not."""

import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Thread, Timer
from threading import enumerate as enumerate_threads

import pytest

from ingest.errors import CameraLost
from ingest.live.source import CameraSource
from kit.ingest.clips import CODECS, FPS, SECONDS, write_elementary
from kit.ingest.fixtures import a_camera
from kit.ingest.hostile_camera import HostileCamera, StreamCase
from kit.ingest.rtsp_camera import RtspCamera
from kit.ingest.stream_fuzz import ReaderProcess, clips_in, fuzz, outcome_of
from kit.waiting import wait_for


@pytest.fixture(name="camera")
def serve(tmp_path: Path) -> Iterator[HostileCamera]:
    with HostileCamera(*clips_in(tmp_path)) as camera:
        yield camera


def a_case(clip: str = "h264", transport: str = "tcp", *, holds: bool = False) -> StreamCase:
    """Return a case in which nothing is wrong."""
    return StreamCase(seed=0, kind="none", clip=clip, transport=transport, keeps_open=holds)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hundred_hostile_streams_end_in_pictures_or_one_line() -> None:
    figures = fuzz(range(100), sys.stderr.buffer, jobs=4)
    assert len(figures.outcomes) == 100
    assert not figures.faults, str(figures)
    assert sum(each.pictures > 0 for each in figures.outcomes) > 30


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_what_is_not_mutated_gives_all_its_pictures(camera: HostileCamera, transport: str) -> None:
    with ReaderProcess(sys.stderr.buffer) as reader:
        for clip in CODECS:
            outcome = outcome_of(a_case(clip, transport), camera, reader)
            assert (outcome.pictures, outcome.fault) == (FPS * SECONDS, "")


@pytest.mark.parametrize(
    ("number", "fault"), [(signal.SIGSEGV, "it ended: -11"), (signal.SIGSTOP, "it hung for 3 s")]
)
def test_a_reader_that_ends_or_hangs_is_a_fault_and_another_one_goes_on(
    camera: HostileCamera, number: signal.Signals, fault: str
) -> None:
    with ReaderProcess(sys.stderr.buffer, limit=3.0) as reader:

        def hit() -> None:
            assert reader.process is not None
            reader.process.send_signal(number)

        Timer(1.0, hit).start()
        assert outcome_of(a_case(holds=True), camera, reader).fault == fault
        assert outcome_of(a_case(), camera, reader).pictures == FPS * SECONDS


class CompressedHandler(BaseHTTPRequestHandler):
    """A camera that says that its pictures are compressed, which they are not."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + bytes(5000))

    def log_message(self, *_: object) -> None:
        pass


def test_a_body_that_is_not_compressed_as_it_says_keeps_no_thread_busy() -> None:
    """FFmpeg tries for ever to unpack the same bytes, until its timeout."""
    with ThreadingHTTPServer(("127.0.0.1", 0), CompressedHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/cam"
        with pytest.raises(CameraLost), CameraSource(a_camera(url)) as source:
            list(islice(source.frames(), 3))
        server.shutdown()
    wait_for(lambda: "reader" not in {thread.name for thread in enumerate_threads()}, 5)


def test_a_codec_that_nobody_knows_is_one_line_and_leaves_nothing_open(tmp_path: Path) -> None:
    clip = write_elementary(tmp_path / "a.h264", CODECS["h264"])
    with RtspCamera(clip, mangles=lambda data: data.replace(b"H264/", b"XYZ4/")) as camera:
        with pytest.raises(CameraLost, match="its codec is unknown: set the camera to"):
            CameraSource(a_camera(camera.url))
        wait_for(lambda: not camera.readers, 2)

"""Clips made on the spot, a real RTSP camera, and a camera worker to watch it with."""

import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import av
import numpy as np
import pytest
from structlog.testing import capture_logs

from ingest.camera import Camera
from ingest.worker import CameraWorker
from storage.log.log import Log
from storage.log.memory_log import MemoryLog
from storage.records.records import Window
from storage.records.topics import WINDOWS
from storage.records.wire import decode_window

DEBIAN_PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).with_name("rtsp_server.py")
SERVER_NEEDS = (
    "python3-gi gir1.2-gst-rtsp-server-1.0 gir1.2-gst-plugins-base-1.0 "
    "gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
)
CANARY = "ca@na/ry:pw"
FPS = 10


def write_clip(
    path: Path, *, size: tuple[int, int] = (320, 240), frames: int = 60, gop: int = FPS
) -> Path:
    """Encode a square that walks over a grey field, at 10 frames a second."""
    form = {".h264": "h264", ".ts": "mpegts", ".mp4": "mp4"}[path.suffix]
    width, height = size
    with av.open(path, "w", format=form) as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(gop)}
        for number in range(frames):
            picture = np.full((height, width, 3), 60, np.uint8)
            left = number * 7 % (width - 40)
            picture[80:120, left : left + 40] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def concatenate(path: Path, *parts: Path) -> Path:
    """Write the bytes of the parts one after the other."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def playlist(url: str) -> bytes:
    """Return an HLS playlist that names this one video."""
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{url}\n#EXT-X-ENDLIST\n".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """Videos of 5 to 12 s; `resized` turns from 320x240 to 640x480, `jumping` starts anew."""

    plain: Path
    resized: Path
    recorded: Path
    resized_file: Path
    jumping_file: Path


@pytest.fixture(scope="session", name="clips")
def make_clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    folder = tmp_path_factory.mktemp("clips")
    large = (640, 480)
    plain = write_clip(folder / "a.h264")
    short = write_clip(folder / "c.h264", frames=25)
    wide = write_clip(folder / "b.h264", size=large, frames=25)
    small_ts, large_ts = write_clip(folder / "a.ts"), write_clip(folder / "b.ts", size=large)
    return Clips(
        plain=plain,
        resized=concatenate(folder / "cb.h264", short, wide),
        recorded=write_clip(folder / "a.mp4"),
        resized_file=concatenate(folder / "ab.ts", small_ts, large_ts),
        jumping_file=concatenate(folder / "aa.ts", small_ts, small_ts),
    )


def free_port() -> int:
    """Return a port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(kw_only=True)
class ServerProcess:
    """An RTSP server of others in a process of its own, to be stopped, killed and restarted."""

    clip: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and return once it listens."""
        raise NotImplementedError

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            with self.process as process:
                process.kill()
            self.process = None


@dataclass(kw_only=True)
class GStreamerServer(ServerProcess):
    """GStreamer's, which asks for a user and a password where they are set."""

    user: str = ""
    password: str = ""

    @property
    def url(self) -> str:
        secret = quote(self.password, safe="")
        access = f"{self.user}:{secret}@" if self.user else ""
        return f"rtsp://{access}127.0.0.1:{self.port}/cam"

    def start(self) -> None:
        command = [DEBIAN_PYTHON, str(SERVER), str(self.port), str(self.clip), "--fps", str(FPS)]
        if self.user:
            command += ["--user", self.user, "--password", self.password]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"


@pytest.fixture(scope="session", name="gstreamer")
def need_gstreamer() -> None:
    """Skip, naming the Debian packages, where the test camera cannot run."""
    check = (
        "import gi\nfor name in 'Gst', 'GstApp', 'GstRtspServer': gi.require_version(name, '1.0')"
    )
    if not Path(DEBIAN_PYTHON).exists():
        pytest.skip(f"the RTSP camera needs Debian's {DEBIAN_PYTHON}")
    if subprocess.run(
        [DEBIAN_PYTHON, "-c", check], stderr=subprocess.DEVNULL, check=False
    ).returncode:
        pytest.skip(f"the RTSP camera needs: apt-get install {SERVER_NEEDS}")


@pytest.fixture(name="rtsp")
def serve_clip(gstreamer: None, clips: Clips) -> Iterator[GStreamerServer]:
    """A camera that loops the plain clip."""
    with GStreamerServer(clip=clips.plain) as server:
        yield server


class CameraWorkerThread:
    """A CameraWorker at work in a thread; its windows, log lines and promises can be seen."""

    def __init__(self, camera: Camera, log: Log | None = None) -> None:
        self.log = log or MemoryLog()
        self.lines: list[MutableMapping[str, Any]] = []
        self.keepalives: list[float] = []
        self.stop = threading.Event()
        self.worker = CameraWorker(camera, self.log, self.keepalives.append)
        self._thread = threading.Thread(target=self.worker.run, args=(self.stop,))

    @property
    def windows(self) -> list[Window]:
        return [decode_window(entry.value) for entry in self.log.read(WINDOWS, 0)]

    def events(self, name: str) -> list[MutableMapping[str, Any]]:
        return [line for line in self.lines if line["event"] == name]

    def run(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.stop.set()
        self._thread.join()


@contextmanager
def run_camera_worker(camera: Camera, log: Log | None = None) -> Iterator[CameraWorkerThread]:
    """Watch the camera for as long as the block runs."""
    with capture_logs() as lines:
        watch = CameraWorkerThread(camera, log)
        watch.lines = lines
        watch.run()
        try:
            yield watch
        finally:
            watch.close()


def a_camera(url: str, **changes: Any) -> Camera:
    """Return a camera that makes a window of 4 stills each second."""
    return Camera(**{"name": "dock", "url": url, "fps": 4.0, "stills_per_window": 4, **changes})

"""Cameras behind servers that nobody here wrote: stopped, killed, ended and started again."""

import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import pytest
from structlog.testing import capture_logs

from kit.coverage.folded import fold_coverage, seconds_in, seconds_unexplained, span
from kit.ingest.clips import CODECS, write_elementary, write_long
from kit.ingest.fixtures import CameraWorkerThread, GStreamerServer, a_camera
from kit.ingest.vlc_server import VlcServer, need_vlc  # noqa: F401
from kit.waiting import wait_for
from storage.records.records import CoverageInterval, CoverageState

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SERVERS = ("gstreamer-tcp", "gstreamer-udp", "vlc-udp")
STORIES = [(server, codec) for server in SERVERS for codec in CODECS]
DUE = 2.0
"""Seconds that may still wait to be told: two windows."""
STALL = 5.0
AWAY = 3.0
BACK = 25.0
"""Seconds within which a window comes: 10 of backoff, and patience for the first picture."""


@dataclass(slots=True, kw_only=True)
class ServerScenario:
    """What a server was made to do, when, and what the worker made of it."""

    server: GStreamerServer | VlcServer
    watch: CameraWorkerThread
    began: float = 0.0
    ended: float = 0.0
    marks: dict[str, float] = field(default_factory=dict)
    """Seconds since the epoch."""

    def run(self) -> Self:
        """Live through it all."""
        try:
            self._run()
            return self
        finally:
            self.watch.close()
            self.server.kill()

    def _run(self) -> None:
        self.server.start()
        self.began = time.time()
        self.watch.run()
        self._seen("start")
        self.server.signal(signal.SIGSTOP)
        self._mark("stopped")
        time.sleep(STALL)
        self.server.signal(signal.SIGCONT)
        self._seen("continued")
        self._away("killed", self.server.kill)
        self._away("terminated", lambda: self.server.signal(signal.SIGTERM))
        self.ended = time.time()

    def _away(self, name: str, end: Callable[[], None]) -> None:
        self._mark(name)
        end()
        time.sleep(AWAY)
        self.server.kill()
        self.server.start()
        self._seen(f"after {name}")

    def _mark(self, name: str) -> None:
        self.marks[name] = time.time()

    def _seen(self, name: str) -> None:
        """Wait for three windows that begin from now on."""
        now = time.time()
        self._mark(name)
        wait_for(lambda: sum(w.start.timestamp() > now for w in self.watch.windows) > 2, BACK + 3)
        self._mark(f"seen {name}")

    @property
    def rows(self) -> list[CoverageInterval]:
        return fold_coverage(self.watch.log, "dock")

    def seconds(self, start: str, end: str) -> dict[CoverageState, float]:
        return seconds_in(self.rows, span(self.marks[start], self.marks[end]))


@pytest.fixture(scope="module", name="stories")
def live_through(gstreamer: None, vlc: None) -> Mapping[tuple[str, str], Future[ServerScenario]]:
    """Live through all of them at once, which takes as long as one."""
    with TemporaryDirectory() as name, capture_logs():
        folder = Path(name)
        folder.chmod(0o755)  # VLC runs as another user
        stories = {(server, codec): _story(folder, server, codec) for server, codec in STORIES}
        with ThreadPoolExecutor(len(stories)) as pool:
            return {each: pool.submit(story.run) for each, story in stories.items()}


def _story(folder: Path, server: str, codec: str) -> ServerScenario:
    brand, transport = server.split("-")
    kind = CODECS[codec]
    serving: GStreamerServer | VlcServer
    if brand == "vlc":
        serving = VlcServer(clip=write_long(folder / f"{codec}.mkv", kind))
    else:
        serving = GStreamerServer(clip=write_elementary(folder / f"{transport}.{codec}", kind))
    return ServerScenario(
        server=serving, watch=CameraWorkerThread(a_camera(serving.url, transport=transport))
    )


@pytest.fixture(name="story")
def choose(
    request: pytest.FixtureRequest, stories: Mapping[tuple[str, str], Future[ServerScenario]]
) -> ServerScenario:
    return stories[request.param].result()


every_server = pytest.mark.parametrize("story", STORIES, indirect=True, ids="-".join)


@every_server
def test_no_second_is_unexplained(story: ServerScenario) -> None:
    assert seconds_unexplained(story.rows, span(story.began, story.ended - DUE)) == 0


@every_server
def test_a_stalled_server_is_a_broken_stream(story: ServerScenario) -> None:
    found = story.seconds("stopped", "continued")
    assert set(found) <= {CoverageState.WAITING, CoverageState.STREAM_BROKEN}
    if isinstance(
        story.server, GStreamerServer
    ):  # VLC makes up for some of it from what it has read
        assert found[CoverageState.STREAM_BROKEN] > STALL - 1.5


@every_server
@pytest.mark.parametrize("end", ["killed", "terminated"])
def test_a_server_that_went_away_is_down_with_the_reason_and_back_at_once(
    story: ServerScenario, end: str
) -> None:
    found = story.seconds(end, f"after {end}")
    assert found[CoverageState.CAMERA_DOWN] > AWAY - 1.5
    assert story.marks[f"seen after {end}"] - story.marks[f"after {end}"] < BACK
    down = [row for row in story.rows if row.state is CoverageState.CAMERA_DOWN]
    assert all(row.reason for row in down)


@every_server
def test_nothing_else_is_blamed(story: ServerScenario) -> None:
    found = set(seconds_in(story.rows, span(story.began + 5, story.ended)))
    waiting, down, broken = (
        CoverageState.WAITING,
        CoverageState.CAMERA_DOWN,
        CoverageState.STREAM_BROKEN,
    )
    assert found <= {waiting, down, broken}

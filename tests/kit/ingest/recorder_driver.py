"""A recorder whose clocks are set by hand, fed one picture after the other."""

from dataclasses import dataclass, field, replace

import numpy as np
from av.video.frame import VideoFrame

from ingest.camera import Camera
from ingest.frames import Frame, NoPicture
from ingest.recording.recorder import Recorder
from ingest.timing.host_clock import HostClock
from kit.coverage.claims import at
from storage.log.memory_log import MemoryLog
from storage.records.claims import Claim, decode_claim
from storage.records.records import Window
from storage.records.topics import COVERAGE, WINDOWS
from storage.records.wire import decode_window

EPOCH = at(0).timestamp()
DOCK = Camera(name="dock", url="rtsp://10.0.0.21/sub", stills_per_window=4)


@dataclass(kw_only=True)
class RecorderDriver:
    """A recorder and its clocks; seconds are those of `coverage_fixtures.at`."""

    log: MemoryLog = field(default_factory=MemoryLog)
    camera: Camera = DOCK
    steady: float = 0.0
    wall_ahead: float = 0.0
    camera_ahead: float | None = None

    def __post_init__(self) -> None:
        host = HostClock(
            wall=lambda: EPOCH + self.steady + self.wall_ahead, steady=lambda: self.steady
        )
        self.recorder = Recorder(self.camera, self.log, host)
        self.recorder.start_connection()

    def feed(self, *seconds: float) -> list[bool]:
        """Let pictures arrive; return what the recorder says to each."""
        answers = []
        for second in seconds:
            self._advance(second)
            ahead = self.camera_ahead
            time = None if ahead is None else EPOCH + second + ahead
            frame = a_frame(second, second, waited=True)
            answers.append(self.recorder.record(replace(frame, camera_time=time)))
        return answers

    def feed_no_picture(self, second: float, reason: str) -> None:
        """Let data arrive that is no picture."""
        self._advance(second)
        self.recorder.record(NoPicture(arrived=second, reason=reason))

    def advance_to(self, until: float) -> None:
        """Let time pass in which nothing arrives."""
        self._advance(until)

    def _advance(self, second: float) -> None:
        while self.steady + 1 <= second:
            self.steady += 1
            self.recorder.tick()
        self.steady = max(self.steady, second)

    @property
    def windows(self) -> list[Window]:
        """Return the windows in the log."""
        return [decode_window(entry.value) for entry in self.log.read(WINDOWS, 0)]

    @property
    def stills(self) -> list[list[float]]:
        """Return the seconds of the stills of each window."""
        return [
            [round(still.at.timestamp() - EPOCH, 3) for still in window.stills]
            for window in self.windows
        ]

    @property
    def claims(self) -> list[Claim]:
        """Return the claims in the log."""
        return [decode_claim(entry.value) for entry in self.log.read(COVERAGE, 0)]

    @property
    def claimed_spans(self) -> list[tuple[float, float, str]]:
        """Return the claims that have a start, in seconds."""
        return [
            (
                round(claim.start.timestamp() - EPOCH, 3),
                round(claim.end.timestamp() - EPOCH, 3),
                claim.state.value,
            )
            for claim in self.claims
            if claim.start is not None
        ]


def a_frame(stamp: float, arrived: float, *, waited: bool) -> Frame:
    """Return a frame whose picture has edges, and is new at each time."""
    grey = np.random.default_rng(7).integers(30, 220, (48, 64)).astype(np.uint8)
    grey[:8, :8] = int(stamp * 10) % 200 + 20
    picture = VideoFrame.from_ndarray(grey, format="gray")
    return Frame(picture=picture, pts=float(stamp), arrived=arrived, waited=waited)

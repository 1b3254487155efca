"""Watch one camera for ever: connect, cut windows, append them to the log, reconnect."""

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import structlog

from ingest import redirects
from ingest.clock import FileTime, ReceivedTime, Timeline
from ingest.coverage import Account, Teller
from ingest.errors import CameraLost
from ingest.pace import Pace
from ingest.scene import Scene
from ingest.source import Camera, Frame, ReceiveClock, Source, still_of
from ingest.windows import Windows
from storage.backoff import backoff
from storage.claims import Claim
from storage.errors import StorageBlocked, StorageError, TooLarge
from storage.log import Log
from storage.records import Clock, ClockSource, Window

PATIENCE = 10.0
"""How many seconds may pass between two decoded frames."""

_COMPLAIN_EVERY = 60.0


class CameraWorker:
    """Watch one camera and append its windows to the log.

    `promise(seconds)` is called to say that it will be called again within so many seconds.
    """

    def __init__(
        self,
        camera: Camera,
        log: Log,
        promise: Callable[[float], None],
        clock: ReceiveClock | None = None,
    ) -> None:
        self._camera = camera
        self._promise = promise
        self._windows = Windows(camera.name, camera.stills_per_window, ClockSource.RECEIVED)
        self._clock = clock or ReceiveClock()
        self._account = Account(camera.name, self._now(), timedelta(seconds=1 / camera.fps))
        self._teller = Teller(log)
        self._scene = Scene()
        self._failures = 0
        self._clock_event = ""
        self._complain_at = 0.0
        self._logger = structlog.get_logger().bind(camera=camera.name)

    def run(self, stop: Event) -> None:
        """Watch the camera until `stop` is set, and come back to it whenever it is lost."""
        while not stop.is_set():
            try:
                self.run_once(stop)
            except CameraLost as lost:
                self._failures += 1
                delay = backoff(self._failures, random.random())
                self._logger.warning(
                    "camera lost",
                    reason=lost.reason,
                    attempt=self._failures,
                    retry_in=round(delay, 1),
                )
                self._tell_gone(lost.reason)
                self._promise(delay + PATIENCE)
                stop.wait(delay)

    def run_once(self, stop: Event) -> None:
        """Connect and watch until the camera is lost (CameraLost) or `stop` is set."""
        self._promise(redirects.SECONDS + PATIENCE)
        self._windows.break_off()
        with Source(self._camera, self._clock) as source:
            size = f"{source.width}x{source.height}"
            self._logger.info("camera connected", codec=source.codec, size=size)
            frames = self._alive(source.frames(), stop)
            try:
                for window in cut(self._camera, frames, ReceivedTime(), self._windows):
                    self._tell_clock(window.clock)
                    self._append(window)
            finally:
                self._tell_damage(source.damaged)

    def _alive(self, frames: Iterable[Frame], stop: Event) -> Iterator[Frame]:
        for frame in frames:
            if stop.is_set():
                return
            self._promise(PATIENCE)
            self._failures = 0
            yield frame

    def _append(self, cut: Window) -> None:
        """Append a window, and claims about it and what lies before it.

        What lies before comes first, which matters where a broker takes one after the other: an
        analyzer that is quick would otherwise move the ledger beyond it, and nobody could tell of
        it any more if this process died in between.
        """
        window, before = self._account.window(cut, self._windows.take_dropped())
        seen = self._account.seen(self._scene.look(window))
        try:
            self._teller.append(window, before, [*seen, *self._account.kept(window)])
        except (StorageBlocked, TooLarge) as full:
            self._windows.break_off()
            self._tell([*seen, *self._account.lost(window)])
            self._complain(full)

    def _tell_gone(self, reason: str) -> None:
        self._windows.break_off()
        self._tell(self._account.gone(self._now(), self._windows.take_dropped(), reason))

    def _tell(self, claims: Iterable[Claim]) -> None:
        with suppress(StorageBlocked):  # they come first the next time
            self._teller.tell(claims)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(round(self._clock.now(), 3), UTC)

    def _complain(self, full: StorageError) -> None:
        if time.monotonic() >= self._complain_at:
            self._complain_at = time.monotonic() + _COMPLAIN_EVERY
            self._logger.error("windows are being lost", reason=str(full))

    def _tell_damage(self, packets: int) -> None:
        if packets:
            self._logger.warning("damaged video was skipped", packets=packets)

    def _tell_clock(self, clock: Clock) -> None:
        """Log when the camera's clock comes into use or falls out of it."""
        event = "camera tells no time"
        if clock.source is ClockSource.CAMERA_NTP:
            event = "camera clock used"
        elif clock.offset:
            event = "camera clock refused: it is too far from ours or jumps, set it by NTP"
        if event != self._clock_event:
            self._clock_event = event
            self._logger.info(event, camera_minus_ours=round(clock.offset, 3))


def cut(
    camera: Camera, frames: Iterable[Frame], timeline: Timeline, windows: Windows
) -> Iterator[Window]:
    """Keep stills of the frames at the camera's pace, and yield each window they complete."""
    pace = Pace(camera.fps)
    size: tuple[int, int] | None = None
    for frame in frames:
        instant = timeline.place(frame.pts, frame.received)
        found = (frame.picture.width, frame.picture.height)
        if instant.broke or found != (size or found):
            windows.break_off()
            pace = Pace(camera.fps)
        size = found
        if pace.keeps(instant.at):
            claim = None if frame.camera_time is None else frame.camera_time - instant.at
            window = windows.add(still_of(frame.picture, instant.at, camera), claim)
            if window is not None:
                yield window


def windows_of_file(camera: Camera, path: Path, start: datetime) -> Iterator[Window]:
    """Cut a recorded video, as fast as it can be read, as if this camera had sent it.

    `start` (aware) is the instant of the first frame. What is left over at the end makes a
    shorter window of 4, 8, ... stills. Raises BadVideo.
    """
    video = replace(camera, url=str(path), live=False)
    windows = Windows(camera.name, camera.stills_per_window, ClockSource.FILE)
    with Source(video) as source:
        timeline = FileTime(start.timestamp(), source.period)
        yield from cut(video, source.frames(), timeline, windows)
    rest = windows.rest()
    if rest is not None:
        yield rest


def duration_of(path: Path) -> float:
    """Return how many seconds the video lasts; raises BadVideo."""
    with Source(Camera(name=path.name, url=str(path), live=False)) as source:
        return source.seconds()

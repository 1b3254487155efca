"""Turn a camera's stream into windows, and claim every second of it.

- A picture is stamped on a steady clock that nobody sets (`timing.stream_time`): by its arrival,
  refined by its timestamp.
- Windows, coverage and health use this host's clock (`timing.host_clock`). A step of that clock
  ends the window in progress.
- The stills of a window use the camera's own clock if it can be trusted (`timing.camera_clock`).
  Its offset is stored with the window; coverage does not use it.
- Time without a window gets a state: nothing usable arrived (`stream_broken`), the connection was
  lost (`camera_down`), this machine is too slow (`overloaded`), or this process did not run
  (`ingest_down`).
- `tick` claims every second by the deadline, even if nothing arrives.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace

import structlog

from ingest.camera import Camera
from ingest.frames import AnyFrame, CodedFrame, NoPicture, ReceivedFrame, StreamItem
from ingest.pictures.scene import SceneHealth
from ingest.pictures.stills import ScaledPicture, StillSize
from ingest.pictures.view import Luma
from ingest.recording.coverage import TOO_FEW_PICTURES, CoverageTracker, UncoveredSpan
from ingest.recording.picture_gap import PictureGap
from ingest.recording.throttled_warnings import ThrottledWarnings
from ingest.recording.window_writer import WindowWriter
from ingest.timing.backlog import Backlog
from ingest.timing.camera_clock import SenderReports
from ingest.timing.host_clock import HostClock
from ingest.timing.keyframe_intervals import KeyframeIntervals
from ingest.timing.lag import LagDetector
from ingest.timing.process_pauses import TICK_SECONDS, PauseDetector, ProcessPause
from ingest.timing.sampler import FrameSampler
from ingest.timing.stream_time import GAP_STEPS, FrameTime, StreamTime
from ingest.windows import Shot, ShotBuffer, instant
from storage.log.log import Log
from storage.records.records import CoverageState

DEADLINE_WINDOWS = 1.5
"""In windows: time that has waited longer for its window is claimed without one."""


class Recorder:
    """Record one camera, across all its connections; safe to use from any thread."""

    def __init__(self, camera: Camera, log: Log, host: HostClock) -> None:
        self._camera = camera
        self._host = host
        self._lock = threading.RLock()
        self._window_seconds = camera.stills_per_window / camera.fps
        self._lost_since = host.now()
        self._coverage = CoverageTracker(
            camera.name,
            self._lost_since,
            period=1 / camera.fps,
            deadline=DEADLINE_WINDOWS * self._window_seconds,
        )
        self._writer = WindowWriter(camera.name, log, host, self._coverage)
        self._scene = SceneHealth(camera.mask)
        self._keyframes = KeyframeIntervals(camera.fps)
        self._shots = ShotBuffer(camera.stills_per_window)
        self._sizer = StillSize(camera)
        self._still_size: tuple[int, int] | None = None
        self._last_picture_at: float | None = None
        down = CoverageState.INGEST_DOWN
        self._coverage.add_uncovered(UncoveredSpan(start=self._lost_since, end=None, state=down))
        self._pause_detector = PauseDetector(host.steady)
        self._tick_failure: Exception | None = None
        self._warnings = ThrottledWarnings(camera.name, host.steady)
        self._logger = structlog.get_logger().bind(camera=camera.name)
        self.start_connection()

    def start_connection(self) -> None:
        """Start a connection; its timestamps are independent of the last one's."""
        with self._lock:
            self._keyframes.start_connection()
            self._time = StreamTime(min_gap=GAP_STEPS / self._camera.fps)
            self._lag = LagDetector()
            self._reports = SenderReports()
            self._sampler: FrameSampler | None = None
            self._backlog = Backlog()
            self._gap = PictureGap(self._camera.fps)
            self._mark_gap()

    def record(self, item: StreamItem) -> bool:
        """Record an item; return whether to skip what has arrived already."""
        with self._lock:
            self._check_pause()
            if isinstance(item, NoPicture):
                self._record_missing(item)
                return False
            time = self._time.stamp(item.pts, item.arrived, waited=item.waited)
            self._keyframes.observe(time.at, is_keyframe=item.is_keyframe)
            new = self._backlog.take(item, time)
        is_behind = [self._record_frame(*each) for each in new]
        return any(is_behind)

    def _record_frame(self, received: AnyFrame, time: FrameTime) -> bool:
        """Record a new frame; return whether to skip what has arrived after it."""
        with self._lock:
            self._record_picture(time)
            camera_time = self._reports.observe(received, time)
            is_behind = self._check_lag(received, time)
            if not self._sample(received, time):
                return is_behind
        frame = received.decode()
        if isinstance(frame, NoPicture):
            self._discard_still(frame)
            return is_behind
        still_size = self._sizer.update(frame.picture, frame.pixel_aspect)
        scaled = ScaledPicture(frame.picture, still_size, self._camera.mask)
        jpeg, luma = scaled.jpeg(self._camera.jpeg_quality), scaled.luma()
        with self._lock:
            if self._sizer.is_stretched:
                self._warnings.warn(
                    "picture size comes and goes: pictures are stretched to one size"
                )
            self._add_shot(Shot(at=time.at, jpeg=jpeg, camera_time=camera_time), luma)
        return is_behind

    def record_loss(self, reason: str) -> None:
        """Record that the connection was lost, or failed."""
        with self._lock:
            self._check_pause()
            self._end_window()
            now = self._host.now()
            last, self._last_picture_at = self._last_picture_at, None
            since = self._lost_since if last is None else self._host.at(last)
            self._lost_since = now
            down = CoverageState.CAMERA_DOWN
            lost = UncoveredSpan(start=since, end=None, state=down, reason=reason)
            self._coverage.add_uncovered(lost)
            self._writer.send_claims(self._coverage.claim_until(now, TOO_FEW_PICTURES))

    def tick(self) -> None:
        """Check the host's clock, and claim overdue time; call it every second, from any thread.

        `raise_failure`, `record` and `record_loss` raise a failure, in the thread that can end.
        """
        pause = self._pause_detector.detect()
        if not self._lock.acquire(timeout=-1 if pause else TICK_SECONDS):
            return  # the log blocks the owner of the lock: no pause of ours
        try:
            self._record_pause(pause)
            self._follow_host_clock()
            self._claim_overdue(self._host.now())
        except Exception as failure:  # noqa: BLE001
            self._tick_failure = failure
        finally:
            self._lock.release()

    def close(self) -> None:
        """Write what is left as a last window."""
        with self._lock:
            self._end_window()

    def raise_failure(self) -> None:
        """Raise the failure of a tick, if any."""
        if self._tick_failure is not None:
            raise self._tick_failure

    def _check_pause(self) -> None:
        """Raise a tick's failure; record a pause of this process, not the camera's fault."""
        self.raise_failure()
        self._record_pause(self._pause_detector.detect())

    def _record_pause(self, pause: ProcessPause | None) -> None:
        if pause is None:
            return
        self._lag = LagDetector()  # data that waited meanwhile is late for another reason
        start, last = pause.start, self._last_picture_at
        if last is not None and start - last < self._window_seconds:
            start = min(start, last)
        seconds = round(pause.end - pause.start, 1)
        reason = f"this process did not run for {seconds} s"
        self._add_uncovered(start, pause.end, CoverageState.INGEST_DOWN, reason)
        self._logger.warning("this process did not run", seconds=seconds)

    def _sample(self, frame: AnyFrame, time: FrameTime) -> bool:
        """Count a frame; return whether it becomes a still."""
        sampler = self._sampler = self._sampler or FrameSampler(self._camera.fps, self._keyframes)
        if isinstance(frame, CodedFrame):
            return sampler.take_coded(time.at, is_keyframe=frame.is_keyframe)
        return sampler.take(time.at)

    def _discard_still(self, missing: NoPicture) -> None:
        """Record that a sampled frame could not be decoded."""
        with self._lock:
            if self._sampler is not None:
                self._sampler.give_back()
            self._record_missing(missing)

    def _record_missing(self, missing: NoPicture) -> None:
        """Record data without a picture."""
        self._lag = LagDetector()  # data after a gap is late for another reason
        if self._last_picture_at is not None:
            self._gap.record_missing(missing.reason)
            return
        at, broken = self._host.at(missing.arrived), CoverageState.STREAM_BROKEN
        uncovered = UncoveredSpan(start=at, end=None, state=broken, reason=missing.reason)
        self._coverage.add_uncovered(uncovered)

    def _record_picture(self, time: FrameTime) -> None:
        """Record a picture; after a gap, end the window."""
        if self._last_picture_at is None:
            self._coverage.end_ongoing(self._host.at(time.at))
        elif cause := self._gap.end(time.at - self._last_picture_at, after_gap=time.after_gap):
            self._end_window()
            self._add_uncovered(self._last_picture_at, time.at, cause.state, cause.reason)
        self._last_picture_at = time.at

    def _check_lag(self, frame: ReceivedFrame, time: FrameTime) -> bool:
        if not self._lag.observe(frame, time):
            return False
        self._gap.record_overload(f"this machine does not keep up: {time.lateness:.0f} s behind")
        self._time.skip()
        self._warnings.warn(
            "this machine does not keep up: pictures are skipped", behind=time.lateness
        )
        return True

    def _add_shot(self, shot: Shot, luma: Luma) -> None:
        last, sampler = self._shots.last, self._sampler
        is_resized = self._check_resize(shot)
        if is_resized or (last is not None and shot.is_after_clock_step(last)):
            self._end_window()
            self._sampler = sampler  # its step was taken for this shot
        at = instant(self._host.at(shot.at))
        signals = self._scene.observe(at, luma, self._keyframes.longest_wait)
        self._write_window(self._shots.add(replace(shot, signals=signals)))

    def _check_resize(self, shot: Shot) -> bool:
        """Record the size of a still; return whether it changed, which ends the window."""
        size, self._still_size = self._still_size, shot.jpeg.size
        if size is None or size == shot.jpeg.size:
            return False
        reason = "the size of the camera's pictures changed"
        if self._shots.first is not None:
            self._add_uncovered(self._shots.first.at, shot.at, CoverageState.STREAM_BROKEN, reason)
        self._logger.info("picture size changed", size=f"{shot.jpeg.width}x{shot.jpeg.height}")
        return True

    def _end_window(self) -> None:
        """End the window: write whole groups of four, and drop the rest."""
        self._write_window(self._shots.take_groups())
        self._shots.clear()
        self._mark_gap()
        self._sampler = None

    def _mark_gap(self) -> None:
        """Mark that the next still does not follow the last one."""
        self._writer.mark_gap()
        self._scene.mark_gap()

    def _write_window(self, shots: Sequence[Shot]) -> None:
        if shots and (reason := self._writer.write(shots)):
            self._scene.mark_gap()
            self._warnings.warn("windows are being lost", reason=reason)

    def _follow_host_clock(self) -> None:
        """Follow a step of the host's clock; the window in progress ends by the old time."""
        step = self._host.check_step()
        if step is None:
            return
        self._end_window()
        self._writer.send_claims(self._coverage.set_clock(self._host.now(), step))
        self._host.apply_step(step)
        self._logger.warning("the clock of this host was set", seconds=round(step, 3))

    def _claim_overdue(self, now: float) -> None:
        """Claim time without a window by the deadline; a late window ends early."""
        if self._coverage.is_overdue(now) and self._is_late(now):
            self._write_window(self._shots.take_groups())
        if not self._coverage.is_overdue(now):
            return
        first, last = self._shots.first, self._last_picture_at
        until = now if first is None or self._is_late(now) else self._host.at(first.at)
        cause = self._gap.current_cause(None if last is None else now - self._host.at(last))
        claims = self._coverage.claim_until(until, cause.reason, cause.state)
        if claims and claims[-1].state is CoverageState.STREAM_BROKEN:
            self._warnings.warn("no window came in time", reason=claims[-1].reason)
        self._writer.send_claims(claims)

    def _is_late(self, now: float) -> bool:
        """Return whether the window in progress should have been full by now."""
        first, deadline = self._shots.first, DEADLINE_WINDOWS * self._window_seconds
        return first is not None and now - self._host.at(first.at) > deadline

    def _add_uncovered(self, start: float, end: float, state: CoverageState, reason: str) -> None:
        start, end = self._host.at(start), self._host.at(end)
        uncovered = UncoveredSpan(start=start, end=end, state=state, reason=reason)
        self._coverage.add_uncovered(uncovered)

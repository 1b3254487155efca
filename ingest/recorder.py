"""Turn what a camera's stream gives into windows, and tell what became of every second.

Time is decided here, in one place:

- A picture is placed on a steady clock that no one sets (`stream_time`): by its arrival, refined by
  its timestamp.
- Windows, the ledger and health go by the clock of this host (`host_clock`). A step of it ends the
  window in hand, and is followed.
- The stills of a window go by the camera's own clock where that can be believed (`camera_clock`):
  its offset from the host's is measured, applied to them and kept with them. The ledger does not
  follow it.
- Where there is no window, the ledger says why (`account`): nothing came or what came was no
  picture (`stream_broken`), the connection was lost (`camera_down`), this machine is too slow
  (`overloaded`), or this process did not run (`ingest_down`).
- No second waits for longer than the deadline, whatever comes or does not (`tick`).
"""

import threading
from collections.abc import Sequence
from dataclasses import replace

import structlog

from ingest.account import TOO_FEW, Account, Cause
from ingest.attendance import EVERY, Attendance, Pause
from ingest.backlog import Backlog
from ingest.camera import Camera
from ingest.camera_clock import Reports
from ingest.complaints import Complaints
from ingest.frames import AnyFrame, Arrival, CodedFrame, NoPicture, Sight
from ingest.hole import Hole
from ingest.host_clock import HostClock
from ingest.keyframes import Keyframes
from ingest.lag import Lag
from ingest.pace import Pace
from ingest.pictures import Scaled, StillSize
from ingest.scene import Scene
from ingest.stream_time import Seen, StreamTime
from ingest.view import Luma
from ingest.window_writer import WindowWriter
from ingest.windows import Shot, Shots, instant
from storage.log import Log
from storage.records import CoverageState

DEADLINE = 1.5
"""In windows: what waits for its window for longer is told all the same."""
_STEPS = 3
"""So many steps of a slow camera are no gap."""


class Recorder:
    """Record one camera, across all its connections; safe to use from any thread."""

    def __init__(self, camera: Camera, log: Log, host: HostClock) -> None:
        self._camera = camera
        self._host = host
        self._lock = threading.RLock()
        self._length = camera.stills_per_window / camera.fps
        self._gone_since = host.now()
        self._account = Account(
            camera.name,
            self._gone_since,
            period=1 / camera.fps,
            deadline=DEADLINE * self._length,
        )
        self._writer = WindowWriter(camera.name, log, host, self._account)
        self._scene = Scene(camera.mask)
        self._keyframes = Keyframes(camera.fps)
        self._shots = Shots(camera.stills_per_window)
        self._size = StillSize(camera)
        self._still_size: tuple[int, int] | None = None
        self._seen: float | None = None
        down = CoverageState.INGEST_DOWN
        self._account.note(Cause(start=self._gone_since, end=None, state=down))
        self._attendance = Attendance(host.steady)
        self._failure: Exception | None = None
        self._complaints = Complaints(camera.name, host.steady)
        self._logger = structlog.get_logger().bind(camera=camera.name)
        self.connected()

    def connected(self) -> None:
        """Begin with a new connection: its timestamps have nothing to do with the last one's."""
        with self._lock:
            self._keyframes.connected()
            self._time = StreamTime(patience=_STEPS / self._camera.fps)
            self._lag = Lag()
            self._reports = Reports()
            self._pace: Pace | None = None
            self._backlog = Backlog()
            self._hole = Hole(self._camera.fps)
            self._begin_anew()

    def see(self, sight: Sight) -> bool:
        """Take what the stream gives; return whether to skip what has come already."""
        with self._lock:
            self._notice()
            if isinstance(sight, NoPicture):
                self._miss(sight)
                return False
            seen = self._time.place(sight.pts, sight.arrived, waited=sight.waited)
            self._keyframes.see(seen.at, is_keyframe=sight.is_keyframe)
            new = self._backlog.new(sight, seen)
        is_too_slow = [self._record(*each) for each in new]
        return any(is_too_slow)

    def _record(self, sight: AnyFrame, seen: Seen) -> bool:
        """Take a frame that is new; return whether to skip what has come behind it."""
        with self._lock:
            self._resume(seen)
            camera_time = self._reports.camera_time(sight, seen)
            is_too_slow = self._falls_behind(sight, seen)
            if not self._is_due(sight, seen):
                return is_too_slow
        frame = sight.decode()
        if isinstance(frame, NoPicture):
            self._take_back(frame)
            return is_too_slow
        size = self._size.of(frame.picture, frame.pixel_aspect)
        scaled = Scaled(frame.picture, size, self._camera.mask)
        jpeg, luma = scaled.jpeg(self._camera.jpeg_quality), scaled.luma()
        with self._lock:
            if self._size.is_stretched:
                self._complaints.warn(
                    "picture size comes and goes: pictures are stretched to one size"
                )
            self._keep(Shot(at=seen.at, jpeg=jpeg, camera_time=camera_time), luma)
        return is_too_slow

    def lost(self, reason: str) -> None:
        """Take that the connection was lost, or could not be made."""
        with self._lock:
            self._notice()
            self._cut()
            now = self._host.now()
            since = self._gone_since if self._seen is None else self._host.at(self._seen)
            self._seen, self._gone_since = None, now
            down = CoverageState.CAMERA_DOWN
            self._account.note(Cause(start=since, end=None, state=down, reason=reason))
            self._writer.tell(self._account.tell(now, TOO_FEW))

    def tick(self) -> None:
        """Look at the clock of the host, and tell what is overdue; call it every second.

        What it raises is raised by the next `see` or `lost`, in the thread that can end.
        """
        pause = self._attendance.look()
        if not self._lock.acquire(timeout=-1 if pause else EVERY):
            return  # the log blocks whoever holds it, which is no pause of ours
        try:
            self._take(pause)
            self._follow_clock()
            self._tell_overdue(self._host.now())
        except Exception as failure:  # noqa: BLE001
            self._failure = failure
        finally:
            self._lock.release()

    def close(self) -> None:
        """Take that this process ends: what is in hand makes a last window."""
        with self._lock:
            self._cut()

    def _notice(self) -> None:
        """Notice a pause of this process before what it was is blamed on the camera."""
        if self._failure is not None:
            raise self._failure
        self._take(self._attendance.look())

    def _take(self, pause: Pause | None) -> None:
        if pause is None:
            return
        self._lag = Lag()  # what waited meanwhile is late for another reason
        start = pause.start
        if self._seen is not None and start - self._seen < self._length:
            start = min(start, self._seen)
        seconds = round(pause.end - pause.start, 1)
        reason = f"this process did not run for {seconds} s"
        self._note(start, pause.end, CoverageState.INGEST_DOWN, reason)
        self._logger.warning("this process did not run", seconds=seconds)

    def _is_due(self, frame: AnyFrame, seen: Seen) -> bool:
        """Return whether a frame becomes a still."""
        pace = self._pace = self._pace or Pace(self._camera.fps, self._keyframes)
        if isinstance(frame, CodedFrame):
            return pace.keeps_coded(seen.at, is_keyframe=frame.is_keyframe)
        return pace.keeps(seen.at)

    def _take_back(self, sight: NoPicture) -> None:
        """Take that what was to become a still cannot be shown."""
        with self._lock:
            if self._pace is not None:
                self._pace.give_back()
            self._miss(sight)

    def _miss(self, sight: NoPicture) -> None:
        """Note that data came which is no picture."""
        self._lag = Lag()  # what comes behind a hole is late for another reason
        if self._seen is None:
            at, broken = self._host.at(sight.arrived), CoverageState.STREAM_BROKEN
            self._account.note(Cause(start=at, end=None, state=broken, reason=sight.reason))
        else:
            self._hole.missed(sight.reason)

    def _resume(self, seen: Seen) -> None:
        """Take that there is a picture; where there was none before it for a while, cut."""
        if self._seen is None:
            self._account.resume(self._host.at(seen.at))
        elif why := self._hole.end(seen.at - self._seen, broke=seen.broke):
            self._cut()
            self._note(self._seen, seen.at, why.state, why.reason)
        self._seen = seen.at

    def _falls_behind(self, frame: Arrival, seen: Seen) -> bool:
        if not self._lag.is_too_much(frame, seen):
            return False
        self._hole.overloaded(f"this machine does not keep up: {seen.late:.0f} s behind")
        self._time.skip()
        self._complaints.warn(
            "this machine does not keep up: pictures are skipped", behind=seen.late
        )
        return True

    def _keep(self, shot: Shot, luma: Luma) -> None:
        last, pace = self._shots.last, self._pace
        is_resized = self._resized(shot)
        if is_resized or (last is not None and shot.is_behind_step(last)):
            self._cut()
            self._pace = pace  # its step was taken for this shot
        at = instant(self._host.at(shot.at))
        signals = self._scene.look(at, luma, self._keyframes.longest_wait)
        self._close(self._shots.add(replace(shot, signals=signals)))

    def _resized(self, shot: Shot) -> bool:
        """Return whether the stills change their size; say why what is in hand is cut."""
        size, self._still_size = self._still_size, shot.jpeg.size
        if size is None or size == shot.jpeg.size:
            return False
        reason = "the size of the camera's pictures changed"
        if self._shots.first is not None:
            self._note(self._shots.first.at, shot.at, CoverageState.STREAM_BROKEN, reason)
        self._logger.info("picture size changed", size=f"{shot.jpeg.width}x{shot.jpeg.height}")
        return True

    def _cut(self) -> None:
        """End the window in hand: whole groups of four are one, what is over is told as dropped."""
        self._close(self._shots.groups())
        self._shots.drop()
        self._begin_anew()
        self._pace = None

    def _begin_anew(self) -> None:
        """Take that what comes next does not follow what was kept last."""
        self._writer.gap()
        self._scene.gap()

    def _close(self, shots: Sequence[Shot]) -> None:
        if shots and (reason := self._writer.write(shots)):
            self._scene.gap()
            self._complaints.warn("windows are being lost", reason=reason)

    def _follow_clock(self) -> None:
        """Follow a step of the host's clock: what is in hand goes by the old one."""
        step = self._host.step()
        if step is None:
            return
        self._cut()
        self._writer.tell(self._account.set_clock(self._host.now(), step))
        self._host.follow(step)
        self._logger.warning("the clock of this host was set", seconds=round(step, 3))

    def _tell_overdue(self, now: float) -> None:
        """Tell what no window came of in time; one that grows is ended, or is given its time."""
        if not self._account.is_overdue(now):
            return
        if self._is_late(now):
            self._close(self._shots.groups())
        if not self._account.is_overdue(now):
            return
        first = self._shots.first
        until = now
        if first is not None and not self._is_late(now):
            until = self._host.at(first.at)
        unseen = None if self._seen is None else now - self._host.at(self._seen)
        why = self._hole.why(unseen)
        claims = self._account.tell(until, why.reason, why.state)
        if claims and claims[-1].state is CoverageState.STREAM_BROKEN:
            self._complaints.warn("no window came in time", reason=claims[-1].reason)
        self._writer.tell(claims)

    def _is_late(self, now: float) -> bool:
        """Return whether the window in hand should have been full by now."""
        first = self._shots.first
        return first is not None and now - self._host.at(first.at) > DEADLINE * self._length

    def _note(self, start: float, end: float, state: CoverageState, reason: str) -> None:
        cause = Cause(
            start=self._host.at(start), end=self._host.at(end), state=state, reason=reason
        )
        self._account.note(cause)

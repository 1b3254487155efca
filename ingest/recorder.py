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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from ingest.account import Account, Cause
from ingest.attendance import EVERY, LEAST
from ingest.camera import Camera
from ingest.camera_clock import JUMP, Reports, choose_clock
from ingest.frames import Frame, NoPicture, Sight
from ingest.host_clock import HostClock
from ingest.lag import Lag
from ingest.pace import Pace
from ingest.pictures import compressed
from ingest.scene import Scene
from ingest.stream_time import Seen, StreamTime
from ingest.teller import Teller
from ingest.windows import Shot, Shots
from storage.claims import Claim
from storage.errors import StorageBlocked, StorageError, TooLarge
from storage.log import Log
from storage.records import Clock, ClockSource, CoverageState, Window

DEADLINE = 1.5
"""In windows: what waits for its window for longer is told all the same."""
_HOLE = 1.0
"""Seconds without a picture that are no hole."""
_BACKLOG = 2.0
"""Seconds for which pictures are passed over that had come before the stream was read."""
_AT_ONCE = 0.5
"""Frames that come faster than this share of their own time were kept until now."""
_STEADY_OFFSET = 0.25
"""Seconds by which the camera's offset is measured anew and is the same."""
_STEPS = 3
"""So many steps of a slow camera are no gap."""
_MOMENT = timedelta(milliseconds=1)
_COMPLAIN_EVERY = 60.0


class Recorder:
    """Record one camera, across all its connections; safe to use from any thread."""

    def __init__(self, camera: Camera, log: Log, host: HostClock) -> None:
        self._camera = camera
        self._host = host
        self._lock = threading.RLock()
        self._length = camera.stills_per_window / camera.fps
        self._account = Account(
            camera.name,
            host.now(),
            period=1 / camera.fps,
            deadline=DEADLINE * self._length,
        )
        self._teller = Teller(log)
        self._scene = Scene()
        self._shots = Shots(camera.stills_per_window)
        self._ran_at = host.steady()
        self._seen: float | None = None
        self._gone_since = host.now()
        down = CoverageState.INGEST_DOWN
        self._account.note(Cause(start=self._gone_since, end=None, state=down))
        self._told: datetime | None = None
        self._offset, self._is_believed = 0.0, False
        self._after_gap = False
        self._clock_event = ""
        self._complain_at: dict[str, float] = {}
        self._logger = structlog.get_logger().bind(camera=camera.name)
        self.connected()

    def connected(self) -> None:
        """Begin with a new connection: its timestamps have nothing to do with the last one's."""
        with self._lock:
            self._time = StreamTime(patience=_STEPS / self._camera.fps)
            self._lag = Lag()
            self._reports = Reports()
            self._pace: Pace | None = None
            self._first: Frame | None = None
            self._before: Frame | None = None
            self._is_live = False
            self._hole: tuple[CoverageState, str] | None = None
            self._after_gap = True

    def see(self, sight: Sight) -> bool:
        """Take what the stream gives; return whether to skip what has come already."""
        with self._awake():
            if isinstance(sight, NoPicture):
                self._miss(sight)
                return False
            seen = self._time.place(sight.pts, sight.arrived, waited=sight.waited)
            if not self._has_caught_up(sight):
                return False
            self._resume(seen)
            camera_time = self._reports.camera_time(sight, seen)
            is_too_slow = self._falls_behind(sight, seen)
            self._pace = self._pace or Pace(self._camera.fps)
            if not self._pace.keeps(seen.at):
                return is_too_slow
        jpeg = compressed(sight.picture, self._camera)
        with self._awake():
            self._keep(Shot(at=seen.at, jpeg=jpeg, camera_time=camera_time))
        return is_too_slow

    def lost(self, reason: str) -> None:
        """Take that the connection was lost, or could not be made."""
        with self._awake():
            self._cut()
            now = self._host.now()
            since = self._gone_since if self._seen is None else self._host.at(self._seen)
            self._seen, self._gone_since = None, now
            down = CoverageState.CAMERA_DOWN
            self._account.note(Cause(start=since, end=None, state=down, reason=reason))
            self._tell(self._account.tell(now, ""))

    def missed(self, start: float, end: float) -> None:
        """Take that this process did not run, in steady seconds; what is known is passed over."""
        with self._lock:
            start = max(start, self._ran_at)
            self._ran_at = max(end, self._ran_at)
            if end - start <= LEAST:
                return
            if self._seen is not None and start - self._seen < self._length:
                start = min(start, self._seen)
            reason = f"this process did not run for {end - start:.0f} s"
            self._note(start, end, CoverageState.INGEST_DOWN, reason)
            self._logger.warning("this process did not run", seconds=round(end - start, 1))

    def tick(self) -> None:
        """Look at the clock of the host, and tell what is overdue; call it every second."""
        with self._awake():
            step = self._host.step()
            if step is not None:
                self._set_clock(step)
            now = self._host.now()
            if self._account.is_overdue(now):
                self._tell_overdue(now)

    def close(self) -> None:
        """Take that this process ends: what is in hand makes a last window."""
        with self._lock:
            self._cut()

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """Hold the lock; notice first whether this process did not run.

        After a pause any thread may be the first to run, and the one that ticks may be late.
        """
        with self._lock:
            now = self._host.steady()
            if now - self._ran_at > EVERY + LEAST:
                self.missed(self._ran_at, now)
            yield
            self._ran_at = self._host.steady()

    def _has_caught_up(self, frame: Frame) -> bool:
        """Return whether frames are new: a relay begins with those that it kept, all at once."""
        first, before = self._first or frame, self._before
        self._first, self._before = first, frame
        if before is not None and not self._is_live:
            came_at_once = (
                frame.pts is not None
                and before.pts is not None
                and (frame.arrived - before.arrived < _AT_ONCE * (frame.pts - before.pts))
            )
            is_new = frame.waited and not came_at_once
            self._is_live = is_new or frame.arrived - first.arrived > _BACKLOG
        return self._is_live

    def _miss(self, sight: NoPicture) -> None:
        """Note that data came which is no picture."""
        self._lag = Lag()  # what comes behind a hole is late for another reason
        broken = CoverageState.STREAM_BROKEN
        if self._seen is None:
            at = self._host.at(sight.arrived)
            self._account.note(Cause(start=at, end=None, state=broken, reason=sight.reason))
        elif self._hole is None:
            self._hole = (broken, sight.reason)

    def _resume(self, seen: Seen) -> None:
        """Take that there is a picture; where there was none before it for a while, cut."""
        if self._seen is None:
            self._account.resume(self._host.at(seen.at))
        else:
            hole = seen.at - self._seen
            most = max(_HOLE, 2 / self._camera.fps)
            if seen.broke or (self._hole is not None and hole > most):
                self._cut()
                state, reason = self._hole or (
                    CoverageState.STREAM_BROKEN,
                    f"no picture came for {hole:.0f} s",
                )
                self._note(self._seen, seen.at, state, reason)
        self._hole = None
        self._seen = seen.at

    def _falls_behind(self, frame: Frame, seen: Seen) -> bool:
        if not self._lag.is_too_much(frame, seen):
            return False
        reason = f"this machine does not keep up: {seen.late:.0f} s behind"
        self._hole = (CoverageState.OVERLOADED, reason)
        self._time.skip()
        self._complain("this machine does not keep up: pictures are skipped", behind=seen.late)
        return True

    def _keep(self, shot: Shot) -> None:
        last = self._shots.last
        if last is not None and self._stepped(last, shot):
            self._cut()
        self._close(self._shots.add(shot))

    def _stepped(self, last: Shot, shot: Shot) -> bool:
        """Return whether the camera's clock was set between two shots."""
        if last.camera_time is None or shot.camera_time is None:
            return False
        return abs((shot.camera_time - shot.at) - (last.camera_time - last.at)) > JUMP

    def _cut(self) -> None:
        """End the window in hand: whole groups of four are one, what is over is told as dropped."""
        self._close(self._shots.groups())
        self._shots.drop()
        self._after_gap = True
        self._pace = None

    def _close(self, shots: Sequence[Shot]) -> None:
        if not shots:
            return
        host = self._host.at(0.0)
        offsets = [shot.camera_time - shot.at - host for shot in shots if shot.camera_time]
        clock = choose_clock(offsets)
        seen = Window(
            camera=self._camera.name,
            stills=tuple(shot.still(host) for shot in shots),
            clock=clock,
            after_gap=self._after_gap,
        )
        self._tell_clock(clock)
        window, before = self._account.window(seen, shots[0].at + host, shots[-1].at + host)
        self._append(self._on_its_clock(window, clock), before, seen)

    def _on_its_clock(self, window: Window, clock: Clock) -> Window:
        """Move the stills to the camera's clock; say where that, or the host's, went back."""
        is_believed = clock.source is ClockSource.CAMERA_NTP
        offset = clock.offset if is_believed else 0.0
        stepped = abs(offset - self._offset)
        if is_believed and self._is_believed and stepped <= _STEADY_OFFSET:
            offset = self._offset
            window = replace(window, clock=replace(clock, offset=offset))
        self._offset, self._is_believed = offset, is_believed
        shift = timedelta(milliseconds=round(offset * 1000))
        back = timedelta(0)
        if self._told is not None:
            back = self._told + _MOMENT - (window.start + shift)
        is_set_back = back > timedelta(seconds=JUMP)
        if not is_set_back:  # a small step back is taken in, little by little
            shift += max(back, timedelta(0))
        self._told = window.end + shift
        return replace(
            window,
            stills=tuple(replace(still, at=still.at + shift) for still in window.stills),
            after_gap=window.after_gap or is_set_back or stepped > JUMP,
            is_set_back=is_set_back,
        )

    def _append(self, window: Window, before: list[Claim], seen: Window) -> None:
        """Append a window, and claims about it and what lies before it.

        What lies before comes first, which matters where a broker takes one after the other: an
        analyzer that is quick would otherwise move the ledger beyond it, and nobody could tell of
        it any more if this process died in between.
        """
        shown = self._account.seen(self._scene.look(seen))
        self._after_gap = False
        try:
            self._teller.append(window, before, [*shown, *self._account.kept(window)])
        except (StorageBlocked, TooLarge) as full:
            self._after_gap = True
            self._tell([*shown, *self._account.lost(window, _reason(full))])
            self._complain("windows are being lost", reason=_reason(full))

    def _set_clock(self, step: float) -> None:
        """Follow a step of the host's clock: what is in hand goes by the old one."""
        self._cut()
        before = self._host.now()
        if step < 0:
            self._tell(self._account.tell(before, "the clock of this host was set back"))
            self._account.set_back(before + step, -step)
        else:
            reason = f"the clock of this host was set ahead by {step:.1f} s"
            self._account.note(
                Cause(
                    start=before,
                    end=before + step,
                    state=CoverageState.INGEST_DOWN,
                    reason=reason,
                )
            )
        self._host.follow(step)
        self._logger.warning("the clock of this host was set", seconds=round(step, 3))

    def _tell_overdue(self, now: float) -> None:
        """Tell what no window came of in time; one that grows is ended, or is given its time."""
        if self._is_late(now):
            self._close(self._shots.groups())
        if not self._account.is_overdue(now):
            return
        first = self._shots.first
        until = now
        if first is not None and not self._is_late(now):
            until = self._host.at(first.at)
        reason = "no picture comes" if first is None else "pictures come, and make no window"
        reason = self._hole[1] if self._hole else reason
        claims = self._account.tell(until, reason)
        if claims and claims[-1].state is CoverageState.STREAM_BROKEN:
            self._complain("no window came in time", reason=claims[-1].reason)
        self._tell(claims)

    def _is_late(self, now: float) -> bool:
        """Return whether the window in hand should have been full by now."""
        first = self._shots.first
        return first is not None and now - self._host.at(first.at) > DEADLINE * self._length

    def _note(self, start: float, end: float, state: CoverageState, reason: str) -> None:
        cause = Cause(
            start=self._host.at(start), end=self._host.at(end), state=state, reason=reason
        )
        self._account.note(cause)

    def _tell(self, claims: Iterable[Claim]) -> None:
        with suppress(StorageBlocked):  # they come first the next time
            self._teller.tell(claims)

    def _complain(self, event: str, **fields: object) -> None:
        now = self._host.steady()
        if now >= self._complain_at.get(event, now):
            self._complain_at[event] = now + _COMPLAIN_EVERY
            self._logger.warning(event, **fields)

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


def _reason(full: StorageError) -> str:
    return f"the log takes no windows: {full}"

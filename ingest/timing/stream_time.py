"""Stamp the frames of a live camera: arrivals bound the time, timestamps refine it.

All instants are seconds of a steady clock. A frame was seen no later than it arrived, and no
earlier than the one before it. Within that its timestamp decides, if it agrees with the arrivals:

- `zero` is the instant of timestamp 0, by the least late frame so far.
- A frame that the reader waited for, without a gap before it, is fresh: no data queued in the
  network or in this machine. So if a fresh frame is later than TOLERANCE, its timestamp is odd.
- A frame that was already there, or that ended a gap, may be late: a backlog keeps the times of its
  timestamps, also if a slow network delivers it one by one, each frame less late than the last.
- An odd timestamp is ignored, and so is one that does not advance. A fresh frame then gets its
  arrival time, any other the last time plus a usual step; so does a frame without a timestamp. If
  most of the recent timestamps were ignored, a frame after a gap or a skip gets its arrival time.
- If AGREEING_COUNT odd timestamps agree, the camera has restarted its count, and the zero is reset.
- If that happens MAX_RESETS times within DISTRUSTED_FOR, timestamps do not run in real time: only
  arrivals count, until timestamps have agreed for as long.
"""

from collections import deque
from dataclasses import dataclass

TOLERANCE = 0.3
GAP = 3.0
"""Seconds without a frame that are a gap; more for a slow camera."""
GAP_STEPS = 3
"""Usual steps without a frame that are a gap for a slow camera."""
AGREEING_COUNT = 3
MAX_RESETS = 3
DISTRUSTED_FOR = 30.0
_OFFSET_WINDOW = 30.0
"""Seconds after which a shorter delay no longer counts: a camera's clock may run slow."""
_SAME_OFFSET = 0.1
_MIN_STEP = 1e-3
_RECENT_COUNT = 10
_MAX_EARLY = 15.0
"""Seconds by which the zero may be late on a machine that was too slow from the start."""
_CATCH_UP_SHARE = 0.1
"""In a backlog, each frame is less late than the last by this share of a step."""
_STEP_COUNT = 5
"""The usual step is the median of this many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameTime:
    """When a frame was seen, and how late it arrived, in seconds.

    `has_new_zero` says that the timestamps restart with this frame.
    """

    at: float
    after_gap: bool
    lateness: float
    is_timestamp_used: bool
    has_new_zero: bool = False


class StreamTime:
    """Stamp the frames of one connection, in display order."""

    def __init__(self, *, min_gap: float = 0.0) -> None:
        self._gap = max(GAP, min_gap)
        self._last_arrived: float | None = None
        self._last_waited = False
        self._last_at = 0.0
        self._usual_step = 0.0
        self._steps = deque[float](maxlen=_STEP_COUNT)
        self._zero: float | None = None
        self._last_pts = float("-inf")
        self._last_lateness = 0.0
        self._offsets = deque[tuple[float, float]]()
        self._odd_offsets: list[float] = []
        self._reset_times = deque[float](maxlen=MAX_RESETS)
        self._distrusted_until = float("-inf")
        self._has_new_zero = False
        self._recently_used = deque[bool](maxlen=_RECENT_COUNT)
        self._has_skipped = False

    def stamp(self, pts: float | None, arrived: float, *, waited: bool) -> FrameTime:
        """Return when a frame was seen; `waited` says that the reader had to wait for it."""
        step = None if self._last_arrived is None else arrived - self._last_arrived
        is_fresh = step is not None and waited and step <= 2 * self._usual_step + TOLERANCE
        self._has_new_zero = False
        at, is_used = self._estimate(pts, arrived, is_fresh=is_fresh)
        if not is_used and (waited or self._has_skipped) and self._is_unreliable():
            at = arrived
        if step is not None:
            at = max(at, self._last_at + _MIN_STEP)
        at = min(at, max(arrived, self._last_at))
        gap = max(self._gap, GAP_STEPS * self._usual_step)
        after_gap = step is not None and at - self._last_at > gap
        if step is not None:
            self._steps.append(max(at - self._last_at, step if waited else 0.0))
            self._usual_step = sorted(self._steps)[len(self._steps) // 2]
        self._recently_used.append(is_used)
        self._last_arrived, self._last_waited, self._last_at = arrived, waited, at
        self._has_skipped = False
        return FrameTime(
            at=at,
            after_gap=after_gap,
            lateness=arrived - at,
            is_timestamp_used=is_used,
            has_new_zero=self._has_new_zero,
        )

    def skip(self) -> None:
        """Record that the reader skips data: the next frame may be much newer."""
        self._has_skipped = True

    def _is_unreliable(self) -> bool:
        """Return whether most of the recent timestamps were ignored."""
        return 2 * sum(self._recently_used) <= len(self._recently_used)

    def _estimate(self, pts: float | None, arrived: float, *, is_fresh: bool) -> tuple[float, bool]:
        """Return when a frame was seen, and whether its timestamp was used."""
        if pts is None:
            guess = arrived if self._zero is None else self._last_at + self._usual_step
            return arrived if is_fresh and arrived - guess > TOLERANCE else guess, False
        if self._zero is None:
            self._zero = arrived - pts
        lateness = arrived - self._zero - pts
        is_fresh = is_fresh and not self._is_catching_up(lateness, pts)
        is_early = lateness < -TOLERANCE
        earliest = self._last_at - self._usual_step - TOLERANCE
        is_back = pts <= self._last_pts or arrived - lateness <= earliest
        is_odd = is_early or is_back or (is_fresh and lateness > TOLERANCE)
        if not is_odd:
            self._odd_offsets.clear()
            self._last_pts, self._last_lateness = pts, lateness
            self._update_zero(arrived, pts, is_fresh=is_fresh)
            is_trusted = arrived >= self._distrusted_until
            return arrived - max(0.0, lateness) if is_trusted else arrived, is_trusted
        if is_early and self._has_skipped and lateness > -_MAX_EARLY:
            self._reset_zero(arrived, arrived - pts, pts)
            return arrived, True
        if is_fresh or is_early:
            self._record_odd(arrived, pts)
        return arrived if is_fresh else self._last_at + self._usual_step, False

    def _is_catching_up(self, lateness: float, pts: float) -> bool:
        """Return whether this is a backlog: each frame is less late than the last."""
        gained = self._last_lateness - lateness
        return (
            self._last_waited
            and self._last_lateness > TOLERANCE
            and gained >= _CATCH_UP_SHARE * (pts - self._last_pts)
        )

    def _update_zero(self, arrived: float, pts: float, *, is_fresh: bool) -> None:
        """Set the zero by the least late frame of the last seconds."""
        offset = arrived - pts
        if is_fresh or self._zero is None or offset < self._zero:
            while self._offsets and self._offsets[-1][1] >= offset:
                self._offsets.pop()
            self._offsets.append((arrived, offset))
            while self._offsets[0][0] < arrived - _OFFSET_WINDOW:
                self._offsets.popleft()
            self._zero = self._offsets[0][1]

    def _record_odd(self, arrived: float, pts: float) -> None:
        """Reset the zero if enough odd timestamps agree."""
        offset = arrived - pts
        if self._odd_offsets and abs(offset - self._odd_offsets[-1]) > _SAME_OFFSET:
            self._odd_offsets.clear()
        self._odd_offsets.append(offset)
        if len(self._odd_offsets) < AGREEING_COUNT:
            return
        if len(self._reset_times) == MAX_RESETS and arrived - self._reset_times[0] < DISTRUSTED_FOR:
            self._distrusted_until = arrived + DISTRUSTED_FOR
        self._reset_times.append(arrived)
        self._has_new_zero = True
        self._reset_zero(arrived, min(self._odd_offsets), pts)

    def _reset_zero(self, arrived: float, zero: float, pts: float) -> None:
        self._zero, self._last_pts, self._last_lateness = zero, pts, 0.0
        self._offsets = deque([(arrived, zero)])
        self._odd_offsets.clear()

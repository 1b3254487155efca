"""When a frame of a live camera was seen: arrivals decide, timestamps refine.

All instants are seconds of a steady clock. A frame cannot be seen after it arrived, nor before the
one ahead of it. Within that its timestamp says when, as long as it agrees with the arrivals:

- `zero` is when timestamp 0 would have been seen: the least lateness of a frame so far.
- A frame that we had to wait for, without a gap before it, is fresh: nothing waits behind it in
  the network or in this machine, so that its lateness is that of the network alone. Fresh frames
  are the witnesses: where a fresh frame is later than TOLERANCE, its timestamp is odd, not it.
- A frame that was there already, or that ended a gap, may be as late as it says: a backlog whose
  timestamps go on keeps its own times, also where a slow network delivers it one by one, each less
  late than the last.
- An odd timestamp is passed over, as is one that does not advance: a fresh frame is then seen when
  it arrived, any other a usual step behind the last. So is a frame without a timestamp. Where most
  of the last timestamps said nothing, one behind a gap or a skip is seen when it arrived, too.
- Where AGREEING odd timestamps say the same, the camera counts anew, and the zero is seated anew.
- Timestamps that need that RESEATS times within DISTRUSTED_FOR do not go at the rate of time:
  arrivals alone count, until they have agreed for as long.
"""

from collections import deque
from dataclasses import dataclass

TOLERANCE = 0.3
GAP = 3.0
"""Seconds without a frame after which time broke; a slow camera's long steps are no gaps."""
AGREEING_COUNT = 3
MAX_RESETS = 3
DISTRUSTED_FOR = 30.0
_OFFSET_WINDOW = 30.0
"""Seconds after which a way that was quicker counts no more: a camera may run slow."""
_SAME_OFFSET = 0.1
_MIN_STEP = 1e-3
_RECENT_COUNT = 10
_MAX_EARLY = 15.0
"""Seconds by which a machine that was too slow from the start may have seated the zero late."""
_CATCH_UP_SHARE = 0.1
"""The share of a step by which a frame is less late than the one before, where a backlog comes."""
_STEP_COUNT = 5
"""The usual step is the median of as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameTime:
    """When a frame was seen, and how late it arrived.

    `broke` says that time broke before it, `is_timed` that its timestamp was believed, and
    `counts_anew` that the timestamps have a new zero from it on.
    """

    at: float
    after_gap: bool
    lateness: float
    is_timestamp_used: bool
    has_new_zero: bool = False


class StreamTime:
    """Place the frames of one connection, in the order in which they are shown."""

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
        """Return when the frame was seen; `waited` says whether it was not there at once."""
        step = None if self._last_arrived is None else arrived - self._last_arrived
        is_fresh = step is not None and waited and step <= 2 * self._usual_step + TOLERANCE
        self._has_new_zero = False
        at, is_used = self._estimate(pts, arrived, is_fresh=is_fresh)
        if not is_used and (waited or self._has_skipped) and self._is_unreliable():
            at = arrived
        if step is not None:
            at = max(at, self._last_at + _MIN_STEP)
        at = min(at, max(arrived, self._last_at))
        after_gap = step is not None and at - self._last_at > max(self._gap, 3 * self._usual_step)
        if step is not None:
            self._steps.append(max(at - self._last_at, step if waited else 0.0))
            self._usual_step = sorted(self._steps)[len(self._steps) // 2]
        self._recently_used.append(is_used)
        self._last_arrived, self._last_waited, self._last_at, self._has_skipped = (
            arrived,
            waited,
            at,
            False,
        )
        return FrameTime(
            at=at,
            after_gap=after_gap,
            lateness=arrived - at,
            is_timestamp_used=is_used,
            has_new_zero=self._has_new_zero,
        )

    def skip(self) -> None:
        """Take that the reader skips what has come: the next frame may be newer than all before."""
        self._has_skipped = True

    def _is_unreliable(self) -> bool:
        """Return whether most of the last timestamps said nothing."""
        return 2 * sum(self._recently_used) <= len(self._recently_used)

    def _estimate(self, pts: float | None, arrived: float, *, is_fresh: bool) -> tuple[float, bool]:
        """Return when a frame was seen, and whether its timestamp says so."""
        if pts is None:
            guess = arrived if self._zero is None else self._last_at + self._usual_step
            return arrived if is_fresh and arrived - guess > TOLERANCE else guess, False
        if self._zero is None:
            self._zero = arrived - pts
        lateness = arrived - self._zero - pts
        is_fresh = is_fresh and not self._is_catching_up(lateness, pts)
        is_early = lateness < -TOLERANCE
        is_back = (
            pts <= self._last_pts
            or arrived - lateness <= self._last_at - self._usual_step - TOLERANCE
        )
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
        """Return whether frames of a backlog come one by one, each less late than the last."""
        gained = self._last_lateness - lateness
        return (
            self._last_waited
            and self._last_lateness > TOLERANCE
            and gained >= _CATCH_UP_SHARE * (pts - self._last_pts)
        )

    def _update_zero(self, arrived: float, pts: float, *, is_fresh: bool) -> None:
        """Let the quickest way of the last seconds set the zero."""
        offset = arrived - pts
        if is_fresh or self._zero is None or offset < self._zero:
            while self._offsets and self._offsets[-1][1] >= offset:
                self._offsets.pop()
            self._offsets.append((arrived, offset))
            while self._offsets[0][0] < arrived - _OFFSET_WINDOW:
                self._offsets.popleft()
            self._zero = self._offsets[0][1]

    def _record_odd(self, arrived: float, pts: float) -> None:
        """Seat the zero anew where enough odd timestamps agree."""
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

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
AGREEING = 3
RESEATS = 3
DISTRUSTED_FOR = 30.0
_SPAN = 30.0
"""Seconds after which a way that was quicker counts no more: a camera may run slow."""
_ALIKE = 0.1
_LEAST = 1e-3
_LAST = 10
_MOST_EARLY = 15.0
"""Seconds by which a machine that was too slow from the start may have seated the zero late."""
_GAINED = 0.1
"""The share of a step by which a frame is less late than the one before, where a backlog comes."""
_STEPS = 5
"""The usual step is the median of as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """When a frame was seen, and how late it arrived.

    `broke` says that time broke before it, `is_timed` that its timestamp was believed, and
    `counts_anew` that the timestamps have a new zero from it on.
    """

    at: float
    broke: bool
    late: float
    is_timed: bool
    counts_anew: bool = False


class StreamTime:
    """Place the frames of one connection, in the order in which they are shown."""

    def __init__(self, *, patience: float = 0.0) -> None:
        self._gap = max(GAP, patience)
        self._arrived: float | None = None
        self._waited = False
        self._seen = 0.0
        self._usual = 0.0
        self._steps = deque[float](maxlen=_STEPS)
        self._zero: float | None = None
        self._pts = float("-inf")
        self._late = 0.0
        self._ways = deque[tuple[float, float]]()
        self._odd: list[float] = []
        self._reseated = deque[float](maxlen=RESEATS)
        self._distrusted_until = float("-inf")
        self._counts_anew = False
        self._timed = deque[bool](maxlen=_LAST)
        self._skipped = False

    def place(self, pts: float | None, arrived: float, *, waited: bool) -> Seen:
        """Return when the frame was seen; `waited` says whether it was not there at once."""
        step = None if self._arrived is None else arrived - self._arrived
        is_fresh = step is not None and waited and step <= 2 * self._usual + TOLERANCE
        self._counts_anew = False
        at, is_timed = self._believed(pts, arrived, is_fresh=is_fresh)
        if not is_timed and (waited or self._skipped) and self._is_in_doubt():
            at = arrived
        if step is not None:
            at = max(at, self._seen + _LEAST)
        at = min(at, max(arrived, self._seen))
        broke = step is not None and at - self._seen > max(self._gap, 3 * self._usual)
        if step is not None:
            self._steps.append(max(at - self._seen, step if waited else 0.0))
            self._usual = sorted(self._steps)[len(self._steps) // 2]
        self._timed.append(is_timed)
        self._arrived, self._waited, self._seen, self._skipped = arrived, waited, at, False
        return Seen(
            at=at,
            broke=broke,
            late=arrived - at,
            is_timed=is_timed,
            counts_anew=self._counts_anew,
        )

    def skip(self) -> None:
        """Take that the reader skips what has come: the next frame may be newer than all before."""
        self._skipped = True

    def _is_in_doubt(self) -> bool:
        """Return whether most of the last timestamps said nothing."""
        return 2 * sum(self._timed) <= len(self._timed)

    def _believed(self, pts: float | None, arrived: float, *, is_fresh: bool) -> tuple[float, bool]:
        """Return when a frame was seen, and whether its timestamp says so."""
        if pts is None:
            guess = arrived if self._zero is None else self._seen + self._usual
            return arrived if is_fresh and arrived - guess > TOLERANCE else guess, False
        if self._zero is None:
            self._zero = arrived - pts
        late = arrived - self._zero - pts
        is_fresh = is_fresh and not self._catches_up(late, pts)
        is_early = late < -TOLERANCE
        is_back = pts <= self._pts or arrived - late <= self._seen - self._usual - TOLERANCE
        is_odd = is_early or is_back or (is_fresh and late > TOLERANCE)
        if not is_odd:
            self._odd.clear()
            self._pts, self._late = pts, late
            self._follow(arrived, pts, is_fresh=is_fresh)
            is_trusted = arrived >= self._distrusted_until
            return arrived - max(0.0, late) if is_trusted else arrived, is_trusted
        if is_early and self._skipped and late > -_MOST_EARLY:
            self._seat(arrived, arrived - pts, pts)
            return arrived, True
        if is_fresh or is_early:
            self._doubt(arrived, pts)
        return arrived if is_fresh else self._seen + self._usual, False

    def _catches_up(self, late: float, pts: float) -> bool:
        """Return whether frames of a backlog come one by one, each less late than the last."""
        gained = self._late - late
        return self._waited and self._late > TOLERANCE and gained >= _GAINED * (pts - self._pts)

    def _follow(self, arrived: float, pts: float, *, is_fresh: bool) -> None:
        """Let the quickest way of the last seconds set the zero."""
        way = arrived - pts
        if is_fresh or self._zero is None or way < self._zero:
            while self._ways and self._ways[-1][1] >= way:
                self._ways.pop()
            self._ways.append((arrived, way))
            while self._ways[0][0] < arrived - _SPAN:
                self._ways.popleft()
            self._zero = self._ways[0][1]

    def _doubt(self, arrived: float, pts: float) -> None:
        """Seat the zero anew where enough odd timestamps agree."""
        way = arrived - pts
        if self._odd and abs(way - self._odd[-1]) > _ALIKE:
            self._odd.clear()
        self._odd.append(way)
        if len(self._odd) < AGREEING:
            return
        if len(self._reseated) == RESEATS and arrived - self._reseated[0] < DISTRUSTED_FOR:
            self._distrusted_until = arrived + DISTRUSTED_FOR
        self._reseated.append(arrived)
        self._counts_anew = True
        self._seat(arrived, min(self._odd), pts)

    def _seat(self, arrived: float, zero: float, pts: float) -> None:
        self._zero, self._pts, self._late = zero, pts, 0.0
        self._ways = deque([(arrived, zero)])
        self._odd.clear()

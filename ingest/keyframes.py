"""How far apart the keyframes of one camera are."""

from collections import deque

MEASURED = 10
"""So many intervals say how a stream is made."""
FREQUENT, SELDOM = 1.1, 1.3
"""In times between two stills: keyframes alone are enough, or are not any more."""
LONGEST = 120.0
"""Seconds: keyframes that are further apart count as so far apart."""
UNSEEN = 40.0
"""Seconds for which one may be waited for: some streams have none but the first."""


class Keyframes:
    """Measure it from the frames of a camera, for `fps` stills a second."""

    def __init__(self, fps: float) -> None:
        self._period = 1 / fps
        self._intervals = deque[float](maxlen=MEASURED)
        self.connected()

    def connected(self) -> None:
        """Begin with a new connection, which says nothing of the time before it."""
        self._first: float | None = None
        self._last: float | None = None
        self._now = 0.0
        self._measured = 0
        self.are_frequent = False
        """Whether there is one for each still."""

    @property
    def interval(self) -> float:
        """Return the longest of late, in seconds; 0 where none was measured."""
        return max(self._intervals, default=0.0)

    @property
    def mean_interval(self) -> float:
        """Return the mean of those of late, in seconds, which jitter does not change."""
        return sum(self._intervals) / (len(self._intervals) or 1)

    @property
    def longest_wait(self) -> float:
        """Return the same, or for how many seconds there was none now if that is longer."""
        since = self._first if self._last is None else self._last
        return (
            self.interval if since is None else max(self.interval, min(self._now - since, UNSEEN))
        )

    def see(self, at: float, *, is_keyframe: bool) -> None:
        """Take that a frame was seen at an instant, in seconds."""
        self._first = at if self._first is None else self._first
        self._now = at
        passed = 0.0 if self._last is None else at - self._last
        if passed > SELDOM * self._period:
            self.are_frequent = False
        if not is_keyframe:
            return
        if self._last is not None:
            self._intervals.append(min(passed, LONGEST))
            self._measured += 1
        self._last = at
        if self._measured >= MEASURED and self.interval <= FREQUENT * self._period:
            self.are_frequent = True

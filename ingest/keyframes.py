"""How far apart the keyframes of one stream are, against the time between two stills."""

from collections import deque

MEASURED = 10
"""So many intervals say how a stream is made."""
FREQUENT, SELDOM = 1.1, 1.3
"""In times between two stills: keyframes alone are enough, or are not any more."""


class Keyframes:
    """Measure it from the frames of one connection, for `fps` stills a second."""

    def __init__(self, fps: float) -> None:
        self._period = 1 / fps
        self._last: float | None = None
        self._intervals = deque[float](maxlen=MEASURED)
        self.are_frequent = False
        """Whether there is one for each still."""

    @property
    def interval(self) -> float:
        """Return the longest that was measured, in seconds."""
        return max(self._intervals, default=0.0)

    def see(self, at: float, *, is_keyframe: bool) -> None:
        """Take that a frame was seen at an instant, in seconds."""
        passed = 0.0 if self._last is None else at - self._last
        if passed > SELDOM * self._period:
            self.are_frequent = False
        if not is_keyframe:
            return
        if self._last is not None:
            self._intervals.append(passed)
        self._last = at
        if len(self._intervals) == MEASURED and self.interval <= FREQUENT * self._period:
            self.are_frequent = True

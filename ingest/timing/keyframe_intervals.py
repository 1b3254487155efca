"""How far apart the keyframes of one camera are."""

from collections import deque

INTERVAL_COUNT = 10
"""So many intervals say how a stream is made."""
FREQUENT_FACTOR, SELDOM_FACTOR = 1.1, 1.3
"""In times between two stills: keyframes alone are enough, or are not any more."""
MAX_INTERVAL = 120.0
"""Seconds: keyframes that are further apart count as so far apart."""
MAX_KEYFRAME_WAIT = 40.0
"""Seconds for which one may be waited for: some streams have none but the first."""


class KeyframeIntervals:
    """Measure it from the frames of a camera, for `fps` stills a second."""

    def __init__(self, fps: float) -> None:
        self._period = 1 / fps
        self._intervals = deque[float](maxlen=INTERVAL_COUNT)
        self.start_connection()

    def start_connection(self) -> None:
        """Begin with a new connection, which says nothing of the time before it."""
        self._first_frame_at: float | None = None
        self._last_keyframe_at: float | None = None
        self._last_frame_at = 0.0
        self._measured_count = 0
        self.is_frequent = False
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
        since = self._first_frame_at if self._last_keyframe_at is None else self._last_keyframe_at
        return (
            self.interval
            if since is None
            else max(self.interval, min(self._last_frame_at - since, MAX_KEYFRAME_WAIT))
        )

    def observe(self, at: float, *, is_keyframe: bool) -> None:
        """Take that a frame was seen at an instant, in seconds."""
        self._first_frame_at = at if self._first_frame_at is None else self._first_frame_at
        self._last_frame_at = at
        elapsed = 0.0 if self._last_keyframe_at is None else at - self._last_keyframe_at
        if elapsed > SELDOM_FACTOR * self._period:
            self.is_frequent = False
        if not is_keyframe:
            return
        if self._last_keyframe_at is not None:
            self._intervals.append(min(elapsed, MAX_INTERVAL))
            self._measured_count += 1
        self._last_keyframe_at = at
        if (
            self._measured_count >= INTERVAL_COUNT
            and self.interval <= FREQUENT_FACTOR * self._period
        ):
            self.is_frequent = True

"""Measure the keyframe intervals of one camera."""

from collections import deque

INTERVAL_COUNT = 10
"""Intervals that describe a stream."""
FREQUENT_FACTOR, SELDOM_FACTOR = 1.1, 1.3
"""In times between two stills: keyframes alone are enough, or no longer are."""
MAX_INTERVAL = 120.0
"""Seconds: a longer interval counts as this long."""
MAX_KEYFRAME_WAIT = 40.0
"""Seconds to wait for a keyframe: some streams have only one."""


class KeyframeIntervals:
    """The keyframe intervals of one camera, for `fps` stills a second."""

    def __init__(self, fps: float) -> None:
        self._period = 1 / fps
        self._intervals = deque[float](maxlen=INTERVAL_COUNT)
        self.start_connection()

    def start_connection(self) -> None:
        """Start a connection; no interval leads over from the last one."""
        self._first_frame_at: float | None = None
        self._last_keyframe_at: float | None = None
        self._last_frame_at = 0.0
        self._measured_count = 0
        self.is_frequent = False
        """Whether there is a keyframe for each still."""

    @property
    def interval(self) -> float:
        """Return the longest recent interval, in seconds; 0 if there is none."""
        return max(self._intervals, default=0.0)

    @property
    def mean_interval(self) -> float:
        """Return the mean of the recent intervals, in seconds, which jitter does not change."""
        return sum(self._intervals) / (len(self._intervals) or 1)

    @property
    def longest_wait(self) -> float:
        """Return the longest recent interval, or the seconds since the last keyframe if longer."""
        since = self._first_frame_at if self._last_keyframe_at is None else self._last_keyframe_at
        wait = 0.0 if since is None else min(self._last_frame_at - since, MAX_KEYFRAME_WAIT)
        return max(self.interval, wait)

    def observe(self, at: float, *, is_keyframe: bool) -> None:
        """Record a frame that was seen at an instant, in seconds."""
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
        is_measured = self._measured_count >= INTERVAL_COUNT
        if is_measured and self.interval <= FREQUENT_FACTOR * self._period:
            self.is_frequent = True

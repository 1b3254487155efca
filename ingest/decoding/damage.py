"""Decide which pictures to show after a loss: those from the next keyframe on.

A loss damages every picture that refers to it; an intra picture (I) refers to none. A stream with
intra refresh has no such pictures, but marks where a refresh starts: one full refresh later the
picture is whole.

The omitted time is bounded, and good pictures reduce it slowly. So a camera that loses packets all
the time, or never marks a whole picture, is still watched.
"""

from collections import deque

FIRST_KEYFRAME_TIMEOUT = 80.0
"""Seconds to wait for the first keyframe; less than a source waits for a picture."""
_DEFAULT_LIMIT = 15.0
"""Seconds to omit at most while the keyframe interval is unknown."""
_LIMIT_INTERVALS = 2.5
_MIN_LIMIT, _MAX_LIMIT = 5.0, 60.0
_RECOVERY_RATE = 0.1
"""Omitted seconds that a second of good pictures cancels."""
_INTERVAL_COUNT = 4


class DamageTracker:
    """The damage of one stream; packets are numbered from 0 in decoding order.

    `now` is in seconds of any clock that runs with the stream.
    """

    def __init__(self) -> None:
        self._damaged_from: int | None = 0
        self._last_damaged = -1
        self._refreshes = 0
        self._omitted_seconds = 0.0
        self._has_shown = False
        self._now: float | None = None
        self._keyframe_at: float | None = None
        self._intervals = deque[float](maxlen=_INTERVAL_COUNT)

    @property
    def is_waiting_for_first(self) -> bool:
        """Return whether no picture was accepted yet."""
        return not self._has_shown

    @property
    def is_undamaged(self) -> bool:
        """Return whether no picture is omitted now."""
        return self._damaged_from is None

    @property
    def is_over_limit(self) -> bool:
        """Return whether the omission lasted so long that damaged pictures are better than none."""
        return self._omitted_seconds >= self._limit()

    @property
    def reason(self) -> str:
        """Return why a picture is omitted."""
        if not self._has_shown:
            return "waiting for a keyframe: none came yet"
        return "video was lost on the way: waiting for the next keyframe"

    def record_loss(self, first: int, last: int) -> None:
        """Mark packets from `first` on as damaged; one after `last` can be whole again."""
        self._damaged_from = first if self._damaged_from is None else self._damaged_from
        if last > self._last_damaged:
            self._last_damaged, self._refreshes = last, 0

    def record_packet(self, number: int, now: float, *, is_keyframe: bool) -> None:
        """Record a packet; `is_keyframe`: with a keyframe, or with the start of a refresh."""
        elapsed = 0.0 if self._now is None else max(0.0, now - self._now)
        self._now = now
        if self._damaged_from is None:
            self._omitted_seconds = max(0.0, self._omitted_seconds - elapsed * _RECOVERY_RATE)
        elif not self.is_over_limit:
            self._omitted_seconds += elapsed
        if not is_keyframe:
            return
        if self._keyframe_at is not None:
            self._intervals.append(now - self._keyframe_at)
        self._keyframe_at = now
        self._refreshes += number > self._last_damaged

    def accept_picture(self, number: int, *, is_intra: bool) -> bool:
        """Accept or omit a packet's picture, `is_intra` or not; return whether to show it."""
        is_first = self._last_damaged < 0
        if number > self._last_damaged and (is_intra or is_first or self._refreshes > 1):
            self._damaged_from = None
        is_damaged = self._damaged_from is not None and number >= self._damaged_from
        if is_damaged and not self.is_over_limit:
            return False
        if not self._has_shown and self._damaged_from is None:
            self._omitted_seconds = 0.0
        self._has_shown = True
        return True

    def _limit(self) -> float:
        if not self._has_shown:
            return FIRST_KEYFRAME_TIMEOUT
        if not self._intervals:
            return _DEFAULT_LIMIT
        return min(max(_MIN_LIMIT, _LIMIT_INTERVALS * max(self._intervals)), _MAX_LIMIT)

"""Which pictures may be shown after a loss: those from the next keyframe on.

What is lost smears all that is drawn on it. An inner picture (I) stands by itself. A stream with
intra refresh has none, but says where a round of refreshing begins: one round later all is new.

A camera that loses a little all the time, or that never says where it is whole again, is watched
all the same: the time that is left out is bounded, and good pictures give it back slowly.
"""

from collections import deque

FIRST_KEYFRAME_TIMEOUT = 80.0
"""Seconds for which the first keyframe is awaited; less than a source waits for a picture."""
_DEFAULT_LIMIT = 15.0
"""Seconds that are left out at most where nobody knows how far keyframes are apart."""
_LIMIT_INTERVALS = 2.5
_MIN_LIMIT, _MAX_LIMIT = 5.0, 60.0
_RECOVERY_RATE = 0.1
"""Seconds that a second of good pictures gives back."""
_INTERVAL_COUNT = 4


class DamageTracker:
    """The damage of one stream; packets are numbered from 0 in the order of decoding.

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
        """Return whether no picture was shown yet."""
        return not self._has_shown

    @property
    def is_undamaged(self) -> bool:
        """Return whether nothing is left out now."""
        return self._damaged_from is None

    @property
    def is_over_limit(self) -> bool:
        """Return whether so much was left out that damaged pictures are better than none."""
        return self._omitted_seconds >= self._limit()

    @property
    def reason(self) -> str:
        """Say why a picture is left out."""
        if not self._has_shown:
            return "waiting for a keyframe: none came yet"
        return "video was lost on the way: waiting for the next keyframe"

    def record_loss(self, first: int, last: int) -> None:
        """Take that packets from `first` on are damaged; from behind `last` on one can be whole."""
        self._damaged_from = first if self._damaged_from is None else self._damaged_from
        if last > self._last_damaged:
            self._last_damaged, self._refreshes = last, 0

    def record_packet(self, number: int, now: float, *, is_keyframe: bool) -> None:
        """Take that a packet came; `is_key`: with a keyframe, or with a round of refreshing."""
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
        """Return whether the picture of a packet may be shown; `is_inner`: it stands by itself."""
        is_first = self._last_damaged < 0
        if number > self._last_damaged and (is_intra or is_first or self._refreshes > 1):
            self._damaged_from = None
        if (
            self._damaged_from is not None
            and number >= self._damaged_from
            and not self.is_over_limit
        ):
            return False
        if not self._has_shown:
            self._has_shown, self._omitted_seconds = (
                True,
                0.0 if self._damaged_from is None else self._omitted_seconds,
            )
        return True

    def _limit(self) -> float:
        if not self._has_shown:
            return FIRST_KEYFRAME_TIMEOUT
        if not self._intervals:
            return _DEFAULT_LIMIT
        return min(max(_MIN_LIMIT, _LIMIT_INTERVALS * max(self._intervals)), _MAX_LIMIT)

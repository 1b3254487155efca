"""Which pictures may be shown after a loss: those from the next keyframe on.

What is lost smears all that is drawn on it. An inner picture (I) stands by itself. A stream with
intra refresh has none, but says where a round of refreshing begins: one round later all is new.

A camera that loses a little all the time, or that never says where it is whole again, is watched
all the same: the time that is left out is bounded, and good pictures give it back slowly.
"""

from collections import deque

FIRST = 80.0
"""Seconds for which the first keyframe is awaited; less than a source waits for a picture."""
_UNKNOWN = 15.0
"""Seconds that are left out at most where nobody knows how far keyframes are apart."""
_INTERVALS = 2.5
_LEAST, _MOST = 5.0, 60.0
_GIVEN_BACK = 0.1
"""Seconds that a second of good pictures gives back."""
_MEASURED = 4


class Damage:
    """The damage of one stream; packets are numbered from 0 in the order of decoding.

    `now` is in seconds of any clock that runs with the stream.
    """

    def __init__(self) -> None:
        self._from: int | None = 0
        self._last = -1
        self._rounds = 0
        self._left_out = 0.0
        self._has_shown = False
        self._now: float | None = None
        self._keyframe_at: float | None = None
        self._intervals = deque[float](maxlen=_MEASURED)

    @property
    def waits_for_the_first(self) -> bool:
        """Return whether no picture was shown yet."""
        return not self._has_shown

    @property
    def is_whole(self) -> bool:
        """Return whether nothing is left out now."""
        return self._from is None

    @property
    def is_exhausted(self) -> bool:
        """Return whether so much was left out that damaged pictures are better than none."""
        return self._left_out >= self._limit()

    @property
    def reason(self) -> str:
        """Say why a picture is left out."""
        if not self._has_shown:
            return "waiting for a keyframe: none came yet"
        return "video was lost on the way: waiting for the next keyframe"

    def lost(self, first: int, last: int) -> None:
        """Take that packets from `first` on are damaged; from behind `last` on one can be whole."""
        self._from = first if self._from is None else self._from
        if last > self._last:
            self._last, self._rounds = last, 0

    def packet(self, number: int, now: float, *, is_key: bool) -> None:
        """Take that a packet came; `is_key`: with a keyframe, or with a round of refreshing."""
        passed = 0.0 if self._now is None else max(0.0, now - self._now)
        self._now = now
        if self._from is None:
            self._left_out = max(0.0, self._left_out - passed * _GIVEN_BACK)
        elif not self.is_exhausted:
            self._left_out += passed
        if not is_key:
            return
        if self._keyframe_at is not None:
            self._intervals.append(now - self._keyframe_at)
        self._keyframe_at = now
        self._rounds += number > self._last

    def shows(self, number: int, *, is_inner: bool) -> bool:
        """Return whether the picture of a packet may be shown; `is_inner`: it stands by itself."""
        is_first = self._last < 0
        if number > self._last and (is_inner or is_first or self._rounds > 1):
            self._from = None
        if self._from is not None and number >= self._from and not self.is_exhausted:
            return False
        if not self._has_shown:
            self._has_shown, self._left_out = True, 0.0 if self._from is None else self._left_out
        return True

    def _limit(self) -> float:
        if not self._has_shown:
            return FIRST
        if not self._intervals:
            return _UNKNOWN
        return min(max(_LEAST, _INTERVALS * max(self._intervals)), _MOST)

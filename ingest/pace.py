"""Which frames become stills."""

from math import floor

from ingest.keyframes import Keyframes

_SLACK = 0.05
_OF_A_STEP = 0.25
_EARLY = 0.1
"""In ticks: how early a keyframe may be where stills are taken of other frames, too."""
_FOLLOW = 0.05
"""In ticks: how far ticks move towards a keyframe at once, but for the first."""
_APART = 0.9
_IN_STEP = 0.05
"""In ticks: keyframes go with the ticks whose interval, or a multiple, is a tick but for this."""


class Pace:
    """Keep the first frame of each tick; the ticks start at the first frame.

    A frame may come early by a twentieth of a tick, so that a camera which sends at the very
    rate that is asked for loses none to jitter. A slower camera loses none at all.

    Of frames that are decoded only where they are kept, keyframes are the cheap ones: the ticks
    follow them. Where `keyframes` are frequent, each tick keeps the one nearest to it and no other.
    Those that are not in step with the ticks are not followed: ticks would get too far from each
    other, and from where they started.
    """

    def __init__(self, fps: float, keyframes: Keyframes | None = None) -> None:
        self._fps = fps
        self._keyframes = keyframes or Keyframes(fps)
        self._began = 0.0
        self._first: float | None = None
        self._next_tick = 0
        self._last: float | None = None
        self._followed: float | None = None

    def keeps(self, at: float) -> bool:
        """Say whether the frame seen at this instant, in seconds, becomes a still."""
        return self._takes(at, _SLACK)

    def keeps_coded(self, at: float, *, is_keyframe: bool) -> bool:
        """Say the same of a frame that is not decoded yet."""
        step = 0.0 if self._last is None else at - self._last
        self._last = at
        if is_keyframe:
            return self._keeps_keyframe(at)
        # The frame before a keyframe is the dearest of all: it is not taken in place of it.
        slack = min(_SLACK, _OF_A_STEP * step * self._fps)
        return not self._keyframes.are_frequent and self._takes(at, slack)

    def give_back(self) -> None:
        """Take that the last frame which was kept made no still."""
        self._next_tick -= 1

    def _keeps_keyframe(self, at: float) -> bool:
        are_frequent = self._keyframes.are_frequent
        nearest = min(0.5, self._keyframes.interval * self._fps / 2)
        if self._followed is None and self._first is not None:
            self._follow(at, most=0.5)
        keeps = self._takes(at, nearest if are_frequent else _EARLY)
        if keeps or self._followed is None or (not are_frequent and self._is_far_from_last(at)):
            goes_along = self._is_in_step() or not are_frequent
            self._follow(at if goes_along else self._began, most=_FOLLOW)
            self._followed = at
        return keeps

    def _is_in_step(self) -> bool:
        """Return whether keyframes stay where they are between the ticks."""
        interval = self._keyframes.mean_interval * self._fps
        return interval > 0 and abs(interval * max(1, round(1 / interval)) - 1) <= _IN_STEP

    def _takes(self, at: float, slack: float) -> bool:
        if self._first is None:
            self._first = self._began = at
        tick = floor((at - self._first) * self._fps + slack)
        if tick < self._next_tick:
            return False
        self._next_tick = tick + 1
        return True

    def _is_far_from_last(self, at: float) -> bool:
        return self._followed is not None and (at - self._followed) * self._fps >= _APART

    def _follow(self, at: float, *, most: float) -> None:
        """Move the ticks towards an instant, by `most` of a tick at most."""
        if self._first is not None:
            late = ((at - self._first) * self._fps + 0.5) % 1 - 0.5
            self._first += max(-most, min(late, most)) / self._fps

"""Which frames become stills."""

from math import floor

from ingest.timing.keyframe_intervals import KeyframeIntervals

_SLACK = 0.05
_SLACK_STEP_SHARE = 0.25
_KEYFRAME_SLACK = 0.1
"""In ticks: how early a keyframe may be where stills are taken of other frames, too."""
_MAX_SHIFT = 0.05
"""In ticks: how far ticks move towards a keyframe at once, but for the first."""
_MIN_SHIFT_INTERVAL = 0.9
_IN_STEP_TOLERANCE = 0.05
"""In ticks: keyframes go with the ticks whose interval, or a multiple, is a tick but for this."""


class FrameSampler:
    """Keep the first frame of each tick; the ticks start at the first frame.

    A frame may come early by a twentieth of a tick, so that a camera which sends at the very
    rate that is asked for loses none to jitter. A slower camera loses none at all.

    Of frames that are decoded only where they are kept, keyframes are the cheap ones: the ticks
    follow them. Where `keyframes` are frequent, each tick keeps the one nearest to it and no other.
    Those that are not in step with the ticks are not followed: ticks would get too far from each
    other, and from where they started.
    """

    def __init__(self, fps: float, keyframes: KeyframeIntervals | None = None) -> None:
        self._fps = fps
        self._keyframes = keyframes or KeyframeIntervals(fps)
        self._started_at = 0.0
        self._first_tick_at: float | None = None
        self._next_tick = 0
        self._last_frame_at: float | None = None
        self._shifted_at: float | None = None

    def take(self, at: float) -> bool:
        """Say whether the frame seen at this instant, in seconds, becomes a still."""
        return self._take_tick(at, _SLACK)

    def take_coded(self, at: float, *, is_keyframe: bool) -> bool:
        """Say the same of a frame that is not decoded yet."""
        step = 0.0 if self._last_frame_at is None else at - self._last_frame_at
        self._last_frame_at = at
        if is_keyframe:
            return self._take_keyframe(at)
        # The frame before a keyframe is the dearest of all: it is not taken in place of it.
        slack = min(_SLACK, _SLACK_STEP_SHARE * step * self._fps)
        return not self._keyframes.is_frequent and self._take_tick(at, slack)

    def give_back(self) -> None:
        """Take that the last frame which was kept made no still."""
        self._next_tick -= 1

    def _take_keyframe(self, at: float) -> bool:
        is_frequent = self._keyframes.is_frequent
        nearest = min(0.5, self._keyframes.interval * self._fps / 2)
        if self._shifted_at is None and self._first_tick_at is not None:
            self._shift_ticks(at, max_shift=0.5)
        is_taken = self._take_tick(at, nearest if is_frequent else _KEYFRAME_SLACK)
        if is_taken or self._shifted_at is None or (not is_frequent and self._is_far_from_last(at)):
            is_following = self._is_in_step() or not is_frequent
            self._shift_ticks(at if is_following else self._started_at, max_shift=_MAX_SHIFT)
            self._shifted_at = at
        return is_taken

    def _is_in_step(self) -> bool:
        """Return whether keyframes stay where they are between the ticks."""
        interval = self._keyframes.mean_interval * self._fps
        return (
            interval > 0 and abs(interval * max(1, round(1 / interval)) - 1) <= _IN_STEP_TOLERANCE
        )

    def _take_tick(self, at: float, slack: float) -> bool:
        if self._first_tick_at is None:
            self._first_tick_at = self._started_at = at
        tick = floor((at - self._first_tick_at) * self._fps + slack)
        if tick < self._next_tick:
            return False
        self._next_tick = tick + 1
        return True

    def _is_far_from_last(self, at: float) -> bool:
        return (
            self._shifted_at is not None
            and (at - self._shifted_at) * self._fps >= _MIN_SHIFT_INTERVAL
        )

    def _shift_ticks(self, at: float, *, max_shift: float) -> None:
        """Move the ticks towards an instant, by `most` of a tick at most."""
        if self._first_tick_at is not None:
            late = ((at - self._first_tick_at) * self._fps + 0.5) % 1 - 0.5
            self._first_tick_at += max(-max_shift, min(late, max_shift)) / self._fps

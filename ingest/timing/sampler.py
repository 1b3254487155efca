"""Choose the frames that become stills."""

from math import floor

from ingest.timing.keyframe_intervals import KeyframeIntervals

_SLACK = 0.05
_SLACK_STEP_SHARE = 0.25
_KEYFRAME_SLACK = 0.1
"""In ticks: how early a keyframe may be if other frames become stills, too."""
_MAX_SHIFT = 0.05
"""In ticks: how far ticks move towards a keyframe at once, except the first."""
_MIN_SHIFT_INTERVAL = 0.9
_IN_STEP_TOLERANCE = 0.05
"""In ticks: keyframes are in step if an interval, or a multiple, differs from a tick by less."""


class FrameSampler:
    """Take the first frame of each tick; the ticks start at the first frame.

    A frame may come early by a twentieth of a tick, so that a camera which sends at exactly `fps`
    loses none to jitter. A slower camera loses none at all.

    Of coded frames, keyframes are the cheapest to decode, so the ticks follow them. If keyframes
    are frequent, each tick takes the nearest keyframe and no other frame. Ticks do not follow
    keyframes that are not in step with them, or they would drift apart.
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
        """Count a frame seen at an instant, in seconds; return whether it becomes a still."""
        return self._take_tick(at, _SLACK)

    def take_coded(self, at: float, *, is_keyframe: bool) -> bool:
        """Count a coded frame; return whether it becomes a still."""
        step = 0.0 if self._last_frame_at is None else at - self._last_frame_at
        self._last_frame_at = at
        if is_keyframe:
            return self._take_keyframe(at)
        # The frame before a keyframe is the most expensive one: prefer the keyframe.
        slack = min(_SLACK, _SLACK_STEP_SHARE * step * self._fps)
        return not self._keyframes.is_frequent and self._take_tick(at, slack)

    def give_back(self) -> None:
        """Return the last tick: its frame made no still."""
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
        """Return whether keyframes keep their place between the ticks."""
        interval = self._keyframes.mean_interval * self._fps
        multiple = interval * max(1, round(1 / interval)) if interval else 0.0
        return abs(multiple - 1) <= _IN_STEP_TOLERANCE

    def _take_tick(self, at: float, slack: float) -> bool:
        if self._first_tick_at is None:
            self._first_tick_at = self._started_at = at
        tick = floor((at - self._first_tick_at) * self._fps + slack)
        if tick < self._next_tick:
            return False
        self._next_tick = tick + 1
        return True

    def _is_far_from_last(self, at: float) -> bool:
        last = self._shifted_at
        return last is not None and (at - last) * self._fps >= _MIN_SHIFT_INTERVAL

    def _shift_ticks(self, at: float, *, max_shift: float) -> None:
        """Move the ticks towards an instant, by `max_shift` of a tick at most."""
        if self._first_tick_at is not None:
            late = ((at - self._first_tick_at) * self._fps + 0.5) % 1 - 0.5
            self._first_tick_at += max(-max_shift, min(late, max_shift)) / self._fps

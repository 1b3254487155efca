"""Which frames become stills."""

from math import floor

_SLACK = 0.05


class Pace:
    """Keep the first frame of each tick; the ticks start at the first frame.

    A frame may come early by a twentieth of a tick, so that a camera which sends at the very
    rate that is asked for loses none to jitter. A slower camera loses none at all.
    """

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._first: float | None = None
        self._next_tick = 0

    def keeps(self, at: float) -> bool:
        """Say whether the frame seen at this instant, in seconds, becomes a still."""
        if self._first is None:
            self._first = at
        tick = floor((at - self._first) * self._fps + _SLACK)
        if tick < self._next_tick:
            return False
        self._next_tick = tick + 1
        return True

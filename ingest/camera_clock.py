"""Which clock the stills of a window go by: the camera's own where it can be believed."""

from collections.abc import Sequence
from statistics import median

from storage.records import Clock, ClockSource

JUMP = 2.0
"""Seconds by which a clock that is steady does not step."""

TRUSTED = 60.0
"""A camera whose clock differs from ours by more is not believed."""


def choose_clock(offsets: Sequence[float]) -> Clock:
    """Choose the clock of a window from what the camera's clock said, minus ours, in seconds.

    The camera is believed when it is steady within JUMP and differs by at most TRUSTED; what
    it says is told in either case.
    """
    if not offsets:
        return Clock(source=ClockSource.RECEIVED, offset=0.0)
    offset = median(offsets)
    steady = max(offsets) - min(offsets) <= JUMP
    believed = steady and abs(offset) <= TRUSTED
    source = ClockSource.CAMERA_NTP if believed else ClockSource.RECEIVED
    return Clock(source=source, offset=offset)

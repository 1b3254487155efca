"""Skip the old frames that a relay has buffered and sends first, all at once."""

from ingest.frames import AnyFrame, ReceivedFrame
from ingest.timing.stream_time import FrameTime

_MAX_BACKLOG = 2.0
"""Seconds for which old frames are skipped."""
_BURST_SHARE = 0.5
"""Frames that arrive faster than this share of their own time were buffered."""


class Backlog:
    """Skip the frames that are older than the connection."""

    def __init__(self) -> None:
        self._first_arrival: float | None = None
        self._pending: tuple[AnyFrame, FrameTime] | None = None
        self._is_over = False

    def take(self, frame: AnyFrame, time: FrameTime) -> list[tuple[AnyFrame, FrameTime]]:
        """Add a frame; return those that are known to be new.

        A frame waits here until the next one shows whether it is new.
        """
        if self._is_over:
            return [(frame, time)]
        self._first_arrival = frame.arrived if self._first_arrival is None else self._first_arrival
        pending, self._pending = self._pending, (frame, time)
        if pending is None:
            return []
        is_new = frame.waited and not _is_burst(pending[0], frame)
        self._is_over = is_new or frame.arrived - self._first_arrival > _MAX_BACKLOG
        if not self._is_over:
            return []
        self._pending = None  # free its picture's memory
        return [pending, (frame, time)] if is_new else [(frame, time)]


def _is_burst(previous: ReceivedFrame, frame: ReceivedFrame) -> bool:
    """Return whether a frame arrived much sooner than its timestamp says."""
    if previous.pts is None or frame.pts is None:
        return False
    return frame.arrived - previous.arrived < _BURST_SHARE * (frame.pts - previous.pts)

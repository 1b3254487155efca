"""What a stream begins with that is not new: a relay sends first what it kept, all at once."""

from ingest.frames import AnyFrame, ReceivedFrame
from ingest.timing.stream_time import FrameTime

_MAX_BACKLOG = 2.0
"""Seconds for which frames are passed over that had come before the stream was read."""
_BURST_SHARE = 0.5
"""Frames that come faster than this share of their own time were kept until now."""


class Backlog:
    """Pass over the frames that were there before a connection was."""

    def __init__(self) -> None:
        self._first_arrival: float | None = None
        self._pending: tuple[AnyFrame, FrameTime] | None = None
        self._is_over = False

    def take(self, frame: AnyFrame, time: FrameTime) -> list[tuple[AnyFrame, FrameTime]]:
        """Take a frame and return those that are new.

        Whether one is new shows at the next, until which it is held.
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
        self._pending = None  # its picture takes memory
        return [pending, (frame, time)] if is_new else [(frame, time)]


def _is_burst(previous: ReceivedFrame, frame: ReceivedFrame) -> bool:
    """Return whether a frame came much sooner after another than their timestamps say."""
    if previous.pts is None or frame.pts is None:
        return False
    return frame.arrived - previous.arrived < _BURST_SHARE * (frame.pts - previous.pts)

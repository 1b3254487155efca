"""What a stream begins with that is not new: a relay sends first what it kept, all at once."""

from ingest.frames import AnyFrame, Arrival
from ingest.stream_time import Seen

_LONGEST = 2.0
"""Seconds for which frames are passed over that had come before the stream was read."""
_AT_ONCE = 0.5
"""Frames that come faster than this share of their own time were kept until now."""


class Backlog:
    """Pass over the frames that were there before a connection was."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._held: tuple[AnyFrame, Seen] | None = None
        self._is_over = False

    def new(self, frame: AnyFrame, seen: Seen) -> list[tuple[AnyFrame, Seen]]:
        """Take a frame and return those that are new.

        Whether one is new shows at the next, until which it is held.
        """
        if self._is_over:
            return [(frame, seen)]
        self._first = frame.arrived if self._first is None else self._first
        held, self._held = self._held, (frame, seen)
        if held is None:
            return []
        is_new = frame.waited and not _came_at_once(held[0], frame)
        self._is_over = is_new or frame.arrived - self._first > _LONGEST
        if not self._is_over:
            return []
        self._held = None  # its picture takes memory
        return [held, (frame, seen)] if is_new else [(frame, seen)]


def _came_at_once(before: Arrival, frame: Arrival) -> bool:
    """Return whether a frame came much sooner after another than their timestamps say."""
    if before.pts is None or frame.pts is None:
        return False
    return frame.arrived - before.arrived < _AT_ONCE * (frame.pts - before.pts)

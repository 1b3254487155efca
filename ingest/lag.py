"""Whether this machine keeps up with a stream."""

from ingest.frames import Arrival
from ingest.stream_time import Seen

MOST = 3.0
"""Seconds by which pictures may be late where this machine is why."""
_WATCHED = 3.0
_CATCHES_UP = 0.5


class Lag:
    """Notice that pictures are late because they are read too slowly.

    Where the reader never has to wait, what it reads has been there for a while. After a stall of
    the network that ends by itself, for then the reader catches up; a machine that is too slow
    falls behind.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._late = 0.0

    def is_too_much(self, frame: Arrival, seen: Seen) -> bool:
        """Return whether to skip what has come: this machine does not keep up."""
        if frame.waited or self._since is None:
            self._since, self._late = frame.arrived, seen.late
            return False
        watched = frame.arrived - self._since
        if watched < _WATCHED or seen.late <= MOST:
            return False
        is_catching_up = self._late - seen.late > _CATCHES_UP * watched
        self._since, self._late = frame.arrived, seen.late
        return not is_catching_up

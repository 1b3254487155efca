"""Whether this machine keeps up with a stream."""

from ingest.frames import ReceivedFrame
from ingest.timing.stream_time import FrameTime

MAX_LAG = 3.0
"""Seconds by which pictures may be late where this machine is why."""
_OBSERVED_SECONDS = 3.0
_CATCH_UP_SHARE = 0.5


class LagDetector:
    """Notice that pictures are late because they are read too slowly.

    Where the reader never has to wait, what it reads has been there for a while. After a stall of
    the network that ends by itself, for then the reader catches up; a machine that is too slow
    falls behind.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._lateness = 0.0

    def observe(self, frame: ReceivedFrame, time: FrameTime) -> bool:
        """Return whether to skip what has come: this machine does not keep up."""
        if frame.waited or self._since is None:
            self._since, self._lateness = frame.arrived, time.lateness
            return False
        observed = frame.arrived - self._since
        if observed < _OBSERVED_SECONDS or time.lateness <= MAX_LAG:
            return False
        is_catching_up = self._lateness - time.lateness > _CATCH_UP_SHARE * observed
        self._since, self._lateness = frame.arrived, time.lateness
        return not is_catching_up

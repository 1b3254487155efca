"""Detect that this machine does not keep up with a stream."""

from ingest.frames import ReceivedFrame
from ingest.timing.stream_time import FrameTime

MAX_LAG = 3.0
"""Seconds by which this machine may make pictures late."""
_OBSERVED_SECONDS = 3.0
_CATCH_UP_SHARE = 0.5


class LagDetector:
    """Detect that pictures are late because they are read too slowly.

    If the reader never has to wait, its data is old. After a stall of the network the reader
    catches up; on a machine that is too slow it does not.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._lateness = 0.0

    def observe(self, frame: ReceivedFrame, time: FrameTime) -> bool:
        """Record a frame; return whether this machine does not keep up and should skip."""
        if frame.waited or self._since is None:
            self._since, self._lateness = frame.arrived, time.lateness
            return False
        observed = frame.arrived - self._since
        if observed < _OBSERVED_SECONDS or time.lateness <= MAX_LAG:
            return False
        is_catching_up = self._lateness - time.lateness > _CATCH_UP_SHARE * observed
        self._since, self._lateness = frame.arrived, time.lateness
        return not is_catching_up

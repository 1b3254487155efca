"""Convert steady time to this host's time, for coverage, health and windows.

Frames are stamped on a steady clock (`stream_time`), which no step of the wall clock moves. Only
data that leaves ingest has the host's time:

- Small differences are slewed: time neither stops nor goes back.
- A step back is followed at once.
- A step ahead is followed at once if it is small. One of more than SUSPECT_STEP is followed after
  it has lasted ACCEPTED_AFTER: a clock that jumps ahead and returns would stamp frames in the
  future, which no reader accepts.
"""

import time
from collections.abc import Callable

SLEW_LIMIT = 0.5
"""Seconds; a smaller difference is no step."""
SUSPECT_STEP = 5.0
ACCEPTED_AFTER = 60.0
_SLEW_RATE = 0.01
"""The share by which time may run faster or slower."""
_STEADY_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady_time() -> float:
    """Return the seconds of a clock that nobody sets and that runs while the host sleeps."""
    return time.clock_gettime(_STEADY_CLOCK)


class HostClock:
    """Convert steady seconds to the host's seconds since the epoch.

    `check_step` returns by how much the clock was set; `apply_step` follows it. In between, earlier
    data can still use the old time.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = steady_time,
    ) -> None:
        self._wall = wall
        self.steady = steady
        """The clock that stamps frames."""
        self._checked_at = steady()
        self._offset = wall() - self._checked_at
        self._ahead_since: float | None = None

    def now(self) -> float:
        """Return the host's time."""
        return self.at(self.steady())

    def at(self, steady: float) -> float:
        """Return the host's time at an instant of the steady clock."""
        return self._offset + steady

    def check_step(self) -> float | None:
        """Compare with the wall clock; return the step to follow, in seconds."""
        steady = self.steady()
        max_slew = _SLEW_RATE * max(0.0, steady - self._checked_at)
        self._checked_at = steady
        ahead = self._wall() - steady - self._offset
        if ahead <= SUSPECT_STEP:
            self._ahead_since = None
        if abs(ahead) <= SLEW_LIMIT:
            self._offset += max(-max_slew, min(max_slew, ahead))
            return None
        if ahead > SUSPECT_STEP:
            self._ahead_since = steady if self._ahead_since is None else self._ahead_since
            if steady - self._ahead_since < ACCEPTED_AFTER:
                return None
        return ahead

    def apply_step(self, step: float) -> None:
        """Follow a step of the clock."""
        self._offset += step
        self._ahead_since = None

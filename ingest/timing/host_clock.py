"""The clock of this host, as the ledger, health and windows go by it.

Frames are placed on a steady clock (`stream_time`), which no step of the wall clock moves. Only
what leaves ingest is turned into the host's time, here, in one place:

- Small differences are slewed: time neither stands still nor goes back.
- A step back is followed at once: what is told from then on is the host's time again.
- A step ahead is followed at once where it is small. One of more than AHEAD is believed once it
  has lasted BELIEVED_AFTER, and the old clock goes on meanwhile: a clock that jumps ahead and comes
  back would date what is seen into a future that nobody reads.
"""

import time
from collections.abc import Callable

SLEW_LIMIT = 0.5
"""Seconds up to which a difference is no step."""
SUSPECT_STEP = 5.0
ACCEPTED_AFTER = 60.0
_SLEW_RATE = 0.01
"""How much faster or slower time may go."""
_STEADY_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady_time() -> float:
    """Return the seconds of a clock that no one sets, and that goes on while the host sleeps."""
    return time.clock_gettime(_STEADY_CLOCK)


class HostClock:
    """Turn steady seconds into the host's, since the epoch.

    `step` says by how much the clock was set, and `follow` goes by that from then on, so that what
    was seen before can be told by the clock of that time.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = steady_time,
    ) -> None:
        self._wall = wall
        self.steady = steady
        """The clock that frames are placed on."""
        self._checked_at = steady()
        self._offset = wall() - self._checked_at
        self._ahead_since: float | None = None

    def now(self) -> float:
        """Return the host's time."""
        return self.at(self.steady())

    def at(self, steady: float) -> float:
        """Return the host's time at an instant of the steady clock, as it is set now."""
        return self._offset + steady

    def check_step(self) -> float | None:
        """Compare with the wall clock; return the step that is to be followed, in seconds."""
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
        """Go by the clock as it is set now."""
        self._offset += step
        self._ahead_since = None

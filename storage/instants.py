"""Which instants a reader believes, and when it doubts its own clock.

An instant that is ahead of our clock by more than the tolerance is wrong, or our clock is:

- The newest claims of the cameras' processes decide. Where those of most cameras are ahead, our
  clock is behind. One camera that is ahead of it while the others are not is wrong itself.
- Of a single camera there is no majority. Then the clock that stamped its append decides, which
  on a broker is another machine's: where that agrees with the camera's, ours counts as behind.
  That is all the clock of the log is good for: it may be wrong by hours itself.
- A wall clock that moved otherwise than the monotonic one has stepped. It is doubted until it
  steps back, or has run evenly for `SETTLE` seconds.

A reader whose clock is in doubt handles nothing and loses nothing: the log keeps what it does not
read. What was written while the writers' clock was ahead is refused once they are right again.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from storage.claims import OF_CAMERAS, decode_claim
from storage.errors import Unreadable
from storage.log import COVERAGE, FINDINGS, WINDOWS, Log
from storage.wire import decode_finding, decode_window

TOLERANCE = timedelta(minutes=5)
"""How far ahead of our clock an instant may be."""
SETTLE = 120.0
"""Seconds that a clock has to run evenly after a step before it is believed again."""
LONG_SETTLE = 6 * 3600.0
"""The same before anything is deleted for its age: what is deleted does not come back."""
_LOOK_SECONDS = 1.0
_HEARD_SECONDS = 60.0
"""For so long a writer whose clock is slow does not make it earlier than others say."""

logger = structlog.get_logger("storage.instants")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReading:
    """The wall clock, and at the same moment one that never steps, in seconds."""

    wall: datetime
    monotonic: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """Our clock's time, and how far ahead of it an instant may be."""

    now: datetime
    tolerance: timedelta = TOLERANCE

    def believes(self, at: datetime) -> bool:
        """Return whether an instant is not too far ahead."""
        return at - self.now <= self.tolerance

    def is_near(self, at: datetime) -> bool:
        """Return whether an instant is neither too far ahead nor as far back."""
        return abs(at - self.now) <= self.tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """The latest instant in an entry of the log, its camera, and when it was appended."""

    camera: str
    at: datetime
    appended_at: datetime


def read_clock() -> ClockReading:
    """Read both clocks of this machine."""
    return ClockReading(wall=datetime.now(UTC), monotonic=time.monotonic())


def is_behind(newest: Iterable[Stamp], present: Present) -> bool:
    """Return whether our clock is behind, given the newest stamp of each camera.

    A camera whose newest stamp is long past is down or removed and has no vote.
    """
    stamps = {stamp.camera: stamp for stamp in newest}.values()
    ahead = [stamp for stamp in stamps if not present.believes(stamp.at)]
    near = [stamp for stamp in stamps if present.is_near(stamp.at)]
    if len(ahead) == 1 and not near:
        (only,) = ahead
        return abs(only.appended_at - only.at) <= present.tolerance
    return len(ahead) > len(near)


def newest_stamps(log: Log) -> list[Stamp]:
    """Return the newest stamp of each camera near the end of the log.

    Claims of the cameras' processes come first. Findings and windows count where there are none.
    """
    for topic, at, most in _WITNESSES:
        found = dict[str, Stamp]()
        for part in log.parts(topic):
            found |= {stamp.camera: stamp for stamp in _tail(log, part, at, most)}
        if found:
            return list(found.values())
    return []


def _tail(
    log: Log, part: str, at: Callable[[bytes], datetime | None], most: int
) -> Iterator[Stamp]:
    """Yield the stamps of the last entries of a part, in order."""
    end = log.next(part)
    first = max(log.oldest(part), end - most)
    for entry in log.read(part, first, limit=most) if first < end else []:
        with suppress(Unreadable):
            latest = at(entry.value)
            if latest is not None:
                yield Stamp(camera=entry.key, at=latest, appended_at=entry.at)


def _end_of_claim(value: bytes) -> datetime | None:
    claim = decode_claim(value)
    return claim.end if claim.state in OF_CAMERAS else None


_WITNESSES: tuple[tuple[str, Callable[[bytes], datetime | None], int], ...] = (
    (COVERAGE, _end_of_claim, 32),
    (FINDINGS, lambda value: decode_finding(value).end, 32),
    (WINDOWS, lambda value: decode_window(value).end, 2),
)
"""Topics, the instant in one of their entries, and how many at the end of a part are read."""


def refusal(at: datetime, present: Present) -> str:
    """Return why an instant is not believed, as the reason of a dead letter."""
    return f"clock ahead: {at.isoformat()} is {_rounded(at - present.now)} ahead of our clock"


class StepDetector:
    """Notice that the wall clock stepped, and when it may be believed again.

    With `settled` False it has to run evenly first. Not for use by several threads.
    """

    def __init__(
        self,
        tolerance: timedelta = TOLERANCE,
        settle: float = SETTLE,
        *,
        settled: bool = True,
    ) -> None:
        self._tolerance = tolerance
        self._settle = settle
        self._settled = settled
        self._trusted: ClockReading | None = None
        self._last: ClockReading | None = None
        self._even_since = 0.0

    def observe(self, reading: ClockReading) -> timedelta | None:
        """Take a reading; return how far the clock is from where it should be, if in doubt."""
        if self._last is None or abs(_step(self._last, reading)) > self._tolerance:
            self._even_since = reading.monotonic
        self._last = reading
        if self._trusted is None:
            self._trusted = reading
        step = _step(self._trusted, reading)
        is_even = reading.monotonic - self._even_since >= self._settle
        if is_even or (self._settled and abs(step) <= self._tolerance):
            self._trusted, self._settled = reading, True
            return None
        return step


class ClockGuard:
    """Decide for one reader what to believe; `doubt` says why its own clock is not, if so.

    Between two calls of `look` the time stands still in `present`. Only the thread of the reader
    calls `look` and `ahead`; any may read `present`.
    """

    def __init__(
        self,
        log: Log,
        tolerance: timedelta = TOLERANCE,
        clock: Callable[[], ClockReading] = read_clock,
    ) -> None:
        self._log = log
        self._tolerance = tolerance
        self._clock = clock
        self._steps = StepDetector(tolerance)
        self._reading = clock()
        self._looked_at = float("-inf")
        self._is_behind = True  # until the log says otherwise
        self._heard: ClockReading | None = None
        self.doubt: str | None = None

    @property
    def present(self) -> Present:
        """Return our clock's time as of the last look."""
        return Present(now=self._reading.wall, tolerance=self._tolerance)

    def look(self) -> bool:
        """Read the clock; return whether it is believed."""
        self._reading = reading = self._clock()
        if self._is_behind and reading.monotonic - self._looked_at >= _LOOK_SECONDS:
            self._look_at_log()
        step = self._steps.observe(reading)
        if step is not None:
            self._set(f"it stepped by {_rounded(step)}")
        elif not self._is_behind:
            self._set(None)
        return self.doubt is None

    def ahead(self, stamps: Sequence[Stamp | None]) -> frozenset[int] | None:
        """Return the numbers of the stamps not to believe; None where our clock is in doubt."""
        present = self.present
        found = frozenset(
            nth for nth, stamp in enumerate(stamps) if stamp and not present.believes(stamp.at)
        )
        known = [stamp for stamp in stamps if stamp is not None]
        if found and is_behind(newest_stamps(self._log) or known, present):
            self._fall_behind()
            return None
        self._hear(stamp for nth, stamp in enumerate(stamps) if stamp and nth not in found)
        return found

    def latest_time(self, now: datetime) -> datetime:
        """Return our time, but no later than what was last read and the time that passed since.

        Where our clock is ahead of the writers', nothing is old that was read a moment ago.
        """
        if self._heard is None:
            return now
        passed = timedelta(seconds=self._clock().monotonic - self._heard.monotonic)
        return min(now, self._heard.wall + passed)

    def _look_at_log(self) -> None:
        newest, present = newest_stamps(self._log), self.present
        self._looked_at = self._reading.monotonic
        self._is_behind = is_behind(newest, present)
        if self._is_behind:
            self._fall_behind()
            return
        near = [stamp for stamp in newest if present.is_near(stamp.at)]
        if self.doubt is not None and 2 * len(near) > len(newest):
            self._steps = StepDetector(self._tolerance)  # the step has set our clock right
        self._hear(stamp for stamp in newest if present.believes(stamp.at))

    def _fall_behind(self) -> None:
        self._is_behind = True
        self._set("what the cameras write is ahead of it")

    def _hear(self, stamps: Iterable[Stamp]) -> None:
        present = self.present
        heard = [stamp.at for stamp in stamps if present.believes(stamp.at)]
        latest = max(heard, default=None)
        if latest is None:
            return
        reading = ClockReading(wall=latest, monotonic=self._reading.monotonic)
        is_old = self._heard is None or reading.monotonic - self._heard.monotonic > _HEARD_SECONDS
        if self._heard is None or is_old or _step(self._heard, reading) > timedelta():
            self._heard = reading

    def _set(self, doubt: str | None) -> None:
        if doubt is not None and self.doubt is None:
            logger.error("clock_behind: our clock is in doubt, nothing is read", reason=doubt)
        elif doubt is None and self.doubt is not None:
            logger.info("our clock is believed again, reading goes on")
        self.doubt = doubt


class Steady:
    """Return whether the clock has run evenly for long enough to delete what is old by it."""

    def __init__(
        self,
        clock: Callable[[], ClockReading] = read_clock,
        settle: float = LONG_SETTLE,
    ) -> None:
        self._clock = clock
        self._steps = StepDetector(settle=settle, settled=False)

    def observe(self) -> bool:
        """Read the clock; return whether it has been even since long ago."""
        return self._steps.observe(self._clock()) is None


def _step(before: ClockReading, after: ClockReading) -> timedelta:
    passed = timedelta(seconds=after.monotonic - before.monotonic)
    return after.wall - before.wall - passed


def _rounded(span: timedelta) -> str:
    sign = "-" if span < timedelta() else ""
    return f"{sign}{timedelta(seconds=round(abs(span).total_seconds()))}"

"""Which instants a reader believes, and when it doubts its own clock.

An instant that is ahead of our clock by more than the tolerance is wrong, or our clock is:

- The newest claims of the cameras' processes decide. Where those of most cameras are ahead, our
  clock is behind. One camera that is ahead of it while the others are not is wrong itself.
- Of a single camera there is no majority. Then the clock that stamped its append decides, which
  on a broker is another machine's: where that agrees with the camera's, ours counts as behind.
  That is all the clock of the log is good for: it may be wrong by hours itself.
- A wall clock that moved otherwise than the monotonic one has stepped. It is doubted until it
  steps back, or has run evenly for `SETTLE_SECONDS` seconds.

A reader whose clock is in doubt handles nothing and loses nothing: the log keeps what it does not
read. What was written while the writers' clock was ahead is refused once they are right again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from storage.clock import TOLERANCE, ClockReading, CurrentTime, StepDetector, clock_step, read_clock
from storage.errors import Unreadable
from storage.log.log import Log
from storage.records.claims import CAMERA_STATES, decode_claim
from storage.records.topics import COVERAGE, FINDINGS, WINDOWS
from storage.records.wire import decode_finding, decode_window

_LOG_CHECK_SECONDS = 1.0
_WRITER_TIME_SECONDS = 60.0
"""For so long a writer whose clock is slow does not make it earlier than others say."""

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryTimestamp:
    """The latest instant in an entry of the log, its camera, and when it was appended."""

    camera: str
    at: datetime
    appended_at: datetime


def is_clock_behind(newest: Iterable[EntryTimestamp], current_time: CurrentTime) -> bool:
    """Return whether our clock is behind, given the newest stamp of each camera.

    A camera whose newest stamp is long past is down or removed and has no vote.
    """
    timestamps = {timestamp.camera: timestamp for timestamp in newest}.values()
    ahead = [timestamp for timestamp in timestamps if not current_time.is_plausible(timestamp.at)]
    near = [timestamp for timestamp in timestamps if current_time.is_near(timestamp.at)]
    if len(ahead) == 1 and not near:
        (only,) = ahead
        return abs(only.appended_at - only.at) <= current_time.tolerance
    return len(ahead) > len(near)


def newest_timestamps(log: Log) -> list[EntryTimestamp]:
    """Return the newest stamp of each camera near the end of the log.

    Claims of the cameras' processes come first. Findings and windows count where there are none.
    """
    for topic, get_timestamp, limit in _TIMESTAMP_SOURCES:
        found = dict[str, EntryTimestamp]()
        for partition in log.partitions(topic):
            found |= {
                stamp.camera: stamp
                for stamp in _tail_timestamps(log, partition, get_timestamp, limit)
            }
        if found:
            return list(found.values())
    return []


def _tail_timestamps(
    log: Log, partition: str, get_timestamp: Callable[[bytes], datetime | None], limit: int
) -> Iterator[EntryTimestamp]:
    """Yield the stamps of the last entries of a part, in order."""
    end_offset = log.end_offset(partition)
    start_offset = max(log.start_offset(partition), end_offset - limit)
    for entry in (
        log.read(partition, start_offset, limit=limit) if start_offset < end_offset else []
    ):
        with suppress(Unreadable):
            latest = get_timestamp(entry.value)
            if latest is not None:
                yield EntryTimestamp(camera=entry.key, at=latest, appended_at=entry.at)


def _claim_timestamp(value: bytes) -> datetime | None:
    claim = decode_claim(value)
    return claim.end if claim.state in CAMERA_STATES else None


_TIMESTAMP_SOURCES: tuple[tuple[str, Callable[[bytes], datetime | None], int], ...] = (
    (COVERAGE, _claim_timestamp, 32),
    (FINDINGS, lambda value: decode_finding(value).end, 32),
    (WINDOWS, lambda value: decode_window(value).end, 2),
)
"""Topics, the instant in one of their entries, and how many at the end of a part are read."""


def clock_ahead_reason(at: datetime, current_time: CurrentTime) -> str:
    """Return why an instant is not believed, as the reason of a dead letter."""
    ahead = _format_rounded(at - current_time.now)
    return f"clock ahead: {at.isoformat()} is {ahead} ahead of our clock"


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
        self._step_detector = StepDetector(tolerance)
        self._reading = clock()
        self._log_checked_at = float("-inf")
        self._is_clock_behind = True  # until the log says otherwise
        self._latest_written: ClockReading | None = None
        self.doubt: str | None = None

    @property
    def current_time(self) -> CurrentTime:
        """Return our clock's time as of the last look."""
        return CurrentTime(now=self._reading.wall, tolerance=self._tolerance)

    def refresh(self) -> bool:
        """Read the clock; return whether it is believed."""
        self._reading = reading = self._clock()
        if self._is_clock_behind and reading.monotonic - self._log_checked_at >= _LOG_CHECK_SECONDS:
            self._check_log()
        step = self._step_detector.observe(reading)
        if step is not None:
            self._set_doubt(f"it stepped by {_format_rounded(step)}")
        elif not self._is_clock_behind:
            self._set_doubt(None)
        return self.doubt is None

    def find_implausible(
        self, timestamps: Sequence[EntryTimestamp | None]
    ) -> frozenset[int] | None:
        """Return the numbers of the stamps not to believe; None where our clock is in doubt."""
        current_time = self.current_time
        found = frozenset(
            index
            for index, timestamp in enumerate(timestamps)
            if timestamp and not current_time.is_plausible(timestamp.at)
        )
        known = [timestamp for timestamp in timestamps if timestamp is not None]
        if found and is_clock_behind(newest_timestamps(self._log) or known, current_time):
            self._distrust_clock()
            return None
        self._record_written(
            timestamp
            for index, timestamp in enumerate(timestamps)
            if timestamp and index not in found
        )
        return found

    def bounded_now(self, now: datetime) -> datetime:
        """Return our time, but no later than what was last read and the time that passed since.

        Where our clock is ahead of the writers', nothing is old that was read a moment ago.
        """
        if self._latest_written is None:
            return now
        passed = timedelta(seconds=self._clock().monotonic - self._latest_written.monotonic)
        return min(now, self._latest_written.wall + passed)

    def _check_log(self) -> None:
        newest, current_time = newest_timestamps(self._log), self.current_time
        self._log_checked_at = self._reading.monotonic
        self._is_clock_behind = is_clock_behind(newest, current_time)
        if self._is_clock_behind:
            self._distrust_clock()
            return
        near = [timestamp for timestamp in newest if current_time.is_near(timestamp.at)]
        if self.doubt is not None and 2 * len(near) > len(newest):
            self._step_detector = StepDetector(self._tolerance)  # the step has set our clock right
        self._record_written(
            timestamp for timestamp in newest if current_time.is_plausible(timestamp.at)
        )

    def _distrust_clock(self) -> None:
        self._is_clock_behind = True
        self._set_doubt("what the cameras write is ahead of it")

    def _record_written(self, timestamps: Iterable[EntryTimestamp]) -> None:
        current_time = self.current_time
        written = [
            timestamp.at for timestamp in timestamps if current_time.is_plausible(timestamp.at)
        ]
        latest = max(written, default=None)
        if latest is None:
            return
        reading = ClockReading(wall=latest, monotonic=self._reading.monotonic)
        is_old = (
            self._latest_written is None
            or reading.monotonic - self._latest_written.monotonic > _WRITER_TIME_SECONDS
        )
        if (
            self._latest_written is None
            or is_old
            or clock_step(self._latest_written, reading) > timedelta()
        ):
            self._latest_written = reading

    def _set_doubt(self, doubt: str | None) -> None:
        if doubt is not None and self.doubt is None:
            logger.error("clock_behind: our clock is in doubt, nothing is read", reason=doubt)
        elif doubt is None and self.doubt is not None:
            logger.info("our clock is believed again, reading goes on")
        self.doubt = doubt


def _format_rounded(span: timedelta) -> str:
    sign = "-" if span < timedelta() else ""
    return f"{sign}{timedelta(seconds=round(abs(span).total_seconds()))}"

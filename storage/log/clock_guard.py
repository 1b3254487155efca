"""Decide whether a timestamp in the log is wrong, or our own clock.

If a timestamp is ahead of our clock by more than the tolerance:

- The newest claims of the cameras decide. If most cameras are ahead, our clock is behind. A single
  camera that is ahead while others are not is wrong itself.
- With one camera there is no majority. Then the clock that stamped its append decides, on a broker
  that of another machine: if it agrees with the camera, our clock is behind. It decides nothing
  else, because it may be wrong by hours itself.

A reader whose clock is in doubt reads nothing and loses nothing: the log keeps the entries.
Entries written while a camera's clock was ahead are refused once that clock is right again.
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
"""For this long a writer with a slow clock does not lower the latest written time."""

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryTimestamp:
    """The latest instant in an entry, its camera, and the time of the append."""

    camera: str
    at: datetime
    appended_at: datetime


def is_clock_behind(newest: Iterable[EntryTimestamp], current_time: CurrentTime) -> bool:
    """Return whether our clock is behind, given the newest timestamp of each camera.

    A camera whose newest timestamp is old is down or removed and has no vote.
    """
    timestamps = {timestamp.camera: timestamp for timestamp in newest}.values()
    ahead = [timestamp for timestamp in timestamps if not current_time.is_plausible(timestamp.at)]
    near = [timestamp for timestamp in timestamps if current_time.is_near(timestamp.at)]
    if len(ahead) == 1 and not near:
        (only,) = ahead
        return abs(only.appended_at - only.at) <= current_time.tolerance
    return len(ahead) > len(near)


def newest_timestamps(log: Log) -> list[EntryTimestamp]:
    """Return the newest timestamp of each camera near the end of the log.

    They are from claims; without claims from findings, and without those from windows.
    """
    for topic, get_timestamp, limit in _TIMESTAMP_SOURCES:
        found = dict[str, EntryTimestamp]()
        for partition in log.partitions(topic):
            found |= {
                timestamp.camera: timestamp
                for timestamp in _tail_timestamps(log, partition, get_timestamp, limit)
            }
        if found:
            return list(found.values())
    return []


def _tail_timestamps(
    log: Log, partition: str, get_timestamp: Callable[[bytes], datetime | None], limit: int
) -> Iterator[EntryTimestamp]:
    """Yield the timestamps of the last entries of a partition, in order."""
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
"""Topics, the instant in an entry, and how many entries per partition are read."""


def clock_ahead_reason(at: datetime, current_time: CurrentTime) -> str:
    """Return the reason of a dead letter whose timestamp is ahead of our clock."""
    ahead = _format_rounded(at - current_time.now)
    return f"clock ahead: {at.isoformat()} is {ahead} ahead of our clock"


class ClockGuard:
    """Checks timestamps for one reader; `doubt` says why our own clock is in doubt, if it is.

    `current_time` changes only in `refresh`. Any thread may read it; the methods are for the
    thread of the reader.
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
        """Return the time of our clock as of the last refresh."""
        return CurrentTime(now=self._reading.wall, tolerance=self._tolerance)

    def refresh(self) -> bool:
        """Read the clock; return whether it is trusted."""
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
        """Return the indices of implausible timestamps; None if our clock is in doubt."""
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
        """Return `now`, but no later than the latest written time plus the time since.

        So an entry just read is not old even if our clock is ahead of the writers'.
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

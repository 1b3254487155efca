"""Which windows to analyse next, and which to shed if analysis is slower than the cameras.

Without overload all windows are analysed in order, a backlog too. Under overload only the newest
windows of each camera stay (a few more with an open incident). Cameras not analysed for longer
than MAX_UNSEEN come first, then those with an open incident, then the others by waiting time.
Pure: times are seconds of any one clock, which the caller reads.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

MAX_UNSEEN = 45.0
"""A camera not analysed for longer comes first, so that each is analysed once a minute."""
BACKLOG, BACKLOG_WITH_INCIDENT = 1, 3
"""Pending windows per camera under overload, without and with an open incident."""
OVERLOAD_STARTS, OVERLOAD_ENDS = 1.0, 0.9
"""The load at which shedding starts and ends: seconds of work per second."""
MAX_BATCH_SECONDS = 8.0
"""Seconds that a batch may take under overload."""
RATE_WINDOW, MIN_RATE_WINDOW = 120.0, 10.0
"""Seconds over which arrivals are counted, and below which no rate is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingWindow:
    """A pending window: its offset in the log, and its arrival time."""

    camera: str
    partition: str
    offset: int
    arrived_at: float


@dataclass(slots=True)
class AnalysisLoad:
    """The load: windows that arrive per second times the seconds that one takes."""

    is_overloaded: bool = False
    _arrivals: dict[str, deque[float]] = field(default_factory=dict)
    _batches: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=32))

    def record_arrival(self, partition: str, arrived_at: float) -> None:
        """Count a window; those of a partition arrive in order."""
        arrivals = self._arrivals.setdefault(partition, deque())
        if arrivals and arrived_at < arrivals[-1] - RATE_WINDOW:
            arrivals.clear()  # the clock of the log was set back
        arrivals.append(arrived_at)
        while arrivals[0] < arrived_at - RATE_WINDOW:
            arrivals.popleft()

    def record_batch(self, seconds: float, windows: int) -> None:
        """Record the duration of a batch."""
        self._batches.append((seconds, windows))

    def update(self) -> bool:
        """Update `is_overloaded`, with hysteresis, and return it."""
        load = self.seconds_per_window * sum(map(_arrival_rate, self._arrivals.values()))
        if self._batches:
            self.is_overloaded = load > (OVERLOAD_ENDS if self.is_overloaded else OVERLOAD_STARTS)
        return self.is_overloaded

    @property
    def seconds_per_window(self) -> float:
        """Return the mean seconds per window of the last batches."""
        windows = sum(count for _, count in self._batches)
        return sum(seconds for seconds, _ in self._batches) / windows if windows else 0.0

    def batch_size(self, maximum: int) -> int:
        """Return the batch size under overload: from half of `maximum` to `maximum`."""
        if not self.seconds_per_window:
            return maximum
        return max(maximum // 2, min(maximum, int(MAX_BATCH_SECONDS / self.seconds_per_window)))

    def forget(self, partition: str) -> None:
        """Drop the arrivals of a partition."""
        self._arrivals.pop(partition, None)


def _arrival_rate(arrivals: Sequence[float]) -> float:
    """Return arrivals per second; 0 if they span less than MIN_RATE_WINDOW."""
    seconds = arrivals[-1] - arrivals[0] if arrivals else 0.0
    return (len(arrivals) - 1) / seconds if seconds >= MIN_RATE_WINDOW else 0.0


def windows_to_shed(
    pending: Sequence[PendingWindow], open_cameras: Collection[str]
) -> list[PendingWindow]:
    """Return the pending windows to shed; those of a camera are in the log's order."""
    to_shed, counts = list[PendingWindow](), dict[str, int]()
    for each in reversed(pending):
        counts[each.camera] = counts.get(each.camera, 0) + 1
        limit = BACKLOG_WITH_INCIDENT if each.camera in open_cameras else BACKLOG
        if counts[each.camera] > limit:
            to_shed.append(each)
    return to_shed[::-1]


def first_of_each_camera(pending: Iterable[PendingWindow]) -> list[PendingWindow]:
    """Return the first window of each camera, in order of arrival."""
    first = dict[str, PendingWindow]()
    for each in pending:
        first.setdefault(each.camera, each)
    return list(first.values())


def most_urgent_first(
    pending: Iterable[PendingWindow],
    open_cameras: Collection[str],
    analysed_at: Mapping[str, float],
    now: float,
) -> list[PendingWindow]:
    """Return the first window of each camera, the most urgent first."""

    def need(each: PendingWindow) -> tuple[int, float]:
        unseen = analysed_at.get(each.camera, float("-inf"))
        rank = 0 if now - unseen >= MAX_UNSEEN else 1 if each.camera in open_cameras else 2
        return rank, each.arrived_at if rank == 1 else unseen

    return sorted(first_of_each_camera(pending), key=need)

"""What is read next, and what is left out where analysis is slower than the cameras.

Not overloaded, everything is read in order, also what piled up while nobody read. Overloaded,
of each camera the newest wait (of one with an open incident a few more), and read first is who
was not seen for longest beyond the floor, then who has an open incident, then who waited
longest. Pure: times are seconds of any one clock, which the caller reads.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

MAX_UNSEEN = 45.0
"""A camera not seen for so long comes first, so that each is seen at least once a minute."""
BACKLOG, BACKLOG_WITH_INCIDENT = 1, 3
"""Windows of a camera that may wait under overload, without and with an open incident."""
OVERLOAD_STARTS, OVERLOAD_ENDS = 1.0, 0.9
"""The load from which, and below which again, windows are shed: seconds of work a second."""
MAX_BATCH_SECONDS = 8.0
"""Seconds that a batch may take under overload: what waits meanwhile grows old."""
RATE_WINDOW, MIN_RATE_WINDOW = 120.0, 10.0
"""Seconds over which arrivals are counted, and below which nothing is said of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingWindow:
    """A window that waits: its place in the log, and when it came."""

    camera: str
    partition: str
    offset: int
    arrived_at: float


@dataclass(slots=True)
class AnalysisLoad:
    """How much work comes a second: windows by when they came, times the seconds one takes."""

    is_overloaded: bool = False
    _arrivals: dict[str, deque[float]] = field(default_factory=dict)
    _batches: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=32))

    def record_arrival(self, partition: str, arrived_at: float) -> None:
        """Count a window that came; a part's windows come in order."""
        arrivals = self._arrivals.setdefault(partition, deque())
        if (
            arrivals and arrived_at < arrivals[-1] - RATE_WINDOW
        ):  # the clock of the log was set back
            arrivals.clear()
        arrivals.append(arrived_at)
        while arrivals[0] < arrived_at - RATE_WINDOW:
            arrivals.popleft()

    def record_batch(self, seconds: float, windows: int) -> None:
        """Count windows that were read together, and how long it took."""
        self._batches.append((seconds, windows))

    def update(self) -> bool:
        """Say whether windows are to be shed, with hysteresis."""
        load = self.seconds_per_window * sum(map(_arrival_rate, self._arrivals.values()))
        if self._batches:
            self.is_overloaded = load > (OVERLOAD_ENDS if self.is_overloaded else OVERLOAD_STARTS)
        return self.is_overloaded

    @property
    def seconds_per_window(self) -> float:
        """Return the seconds that a window took of late."""
        windows = sum(count for _, count in self._batches)
        return sum(seconds for seconds, _ in self._batches) / windows if windows else 0.0

    def batch_size(self, maximum: int) -> int:
        """Return how many windows to read together under overload, `most` if they are quick."""
        return (
            max(maximum // 2, min(maximum, int(MAX_BATCH_SECONDS / self.seconds_per_window)))
            if self.seconds_per_window
            else maximum
        )

    def forget(self, partition: str) -> None:
        """Count no more what came in a part."""
        self._arrivals.pop(partition, None)


def _arrival_rate(arrivals: Sequence[float]) -> float:
    """Return how many a second; none is known from less than some seconds."""
    seconds = arrivals[-1] - arrivals[0] if arrivals else 0.0
    return (len(arrivals) - 1) / seconds if seconds >= MIN_RATE_WINDOW else 0.0


def windows_to_shed(
    pending: Sequence[PendingWindow], open_cameras: Collection[str]
) -> list[PendingWindow]:
    """Return what is left out of what waits, the log's order within a camera given."""
    to_shed, counts = list[PendingWindow](), dict[str, int]()
    for each in reversed(pending):
        counts[each.camera] = counts.get(each.camera, 0) + 1
        if counts[each.camera] > (
            BACKLOG_WITH_INCIDENT if each.camera in open_cameras else BACKLOG
        ):
            to_shed.append(each)
    return to_shed[::-1]


def first_of_each_camera(pending: Iterable[PendingWindow]) -> list[PendingWindow]:
    """Return the first window of each camera, as they came."""
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
    """Return the first window of each camera, the most needed first."""

    def need(each: PendingWindow) -> tuple[int, float]:
        unseen = analysed_at.get(each.camera, float("-inf"))
        rank = 0 if now - unseen >= MAX_UNSEEN else 1 if each.camera in open_cameras else 2
        return rank, each.arrived_at if rank == 1 else unseen

    return sorted(first_of_each_camera(pending), key=need)

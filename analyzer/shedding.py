"""What is read next, and what is left out where analysis is slower than the cameras.

Not overloaded, everything is read in order, also what piled up while nobody read. Overloaded,
of each camera the newest wait (of one with an open incident a few more), and read first is who
was not seen for longest beyond the floor, then who has an open incident, then who waited
longest. Pure: times are seconds of any one clock, which the caller reads.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

FLOOR = 45.0
"""A camera not seen for so long comes first, so that each is seen at least once a minute."""
HELD, HELD_OPEN = 1, 3
"""Windows of a camera that may wait under overload, without and with an open incident."""
OVER, UNDER = 1.0, 0.9
"""The load from which, and below which again, windows are shed: seconds of work a second."""
HURRY = 8.0
"""Seconds that a batch may take under overload: what waits meanwhile grows old."""
SPAN, LEAST = 120.0, 10.0
"""Seconds over which arrivals are counted, and below which nothing is said of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A window that waits: its place in the log, and when it came."""

    camera: str
    part: str
    position: int
    at: float


@dataclass(slots=True)
class Load:
    """How much work comes a second: windows by when they came, times the seconds one takes."""

    is_over: bool = False
    _arrived: dict[str, deque[float]] = field(default_factory=dict)
    _worked: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=32))

    def arrive(self, part: str, at: float) -> None:
        """Count a window that came; a part's windows come in order."""
        trail = self._arrived.setdefault(part, deque())
        if trail and at < trail[-1] - SPAN:  # the clock of the log was set back
            trail.clear()
        trail.append(at)
        while trail[0] < at - SPAN:
            trail.popleft()

    def work(self, seconds: float, windows: int) -> None:
        """Count windows that were read together, and how long it took."""
        self._worked.append((seconds, windows))

    def judge(self) -> bool:
        """Say whether windows are to be shed, with hysteresis."""
        load = self.each * sum(map(_rate, self._arrived.values()))
        if self._worked:
            self.is_over = load > (UNDER if self.is_over else OVER)
        return self.is_over

    @property
    def each(self) -> float:
        """Return the seconds that a window took of late."""
        windows = sum(count for _, count in self._worked)
        return sum(seconds for seconds, _ in self._worked) / windows if windows else 0.0

    def batch(self, most: int) -> int:
        """Return how many windows to read together under overload, `most` if they are quick."""
        return max(most // 2, min(most, int(HURRY / self.each))) if self.each else most

    def forget(self, part: str) -> None:
        """Count no more what came in a part."""
        self._arrived.pop(part, None)


def _rate(trail: Sequence[float]) -> float:
    """Return how many a second; none is known from less than some seconds."""
    lasted = trail[-1] - trail[0] if trail else 0.0
    return (len(trail) - 1) / lasted if lasted >= LEAST else 0.0


def shed(waiting: Sequence[Waiting], open_cameras: Collection[str]) -> list[Waiting]:
    """Return what is left out of what waits, the log's order within a camera given."""
    gone, seen = list[Waiting](), dict[str, int]()
    for each in reversed(waiting):
        seen[each.camera] = seen.get(each.camera, 0) + 1
        if seen[each.camera] > (HELD_OPEN if each.camera in open_cameras else HELD):
            gone.append(each)
    return gone[::-1]


def in_order(waiting: Iterable[Waiting]) -> list[Waiting]:
    """Return the first window of each camera, as they came."""
    first = dict[str, Waiting]()
    for each in waiting:
        first.setdefault(each.camera, each)
    return list(first.values())


def by_need(
    waiting: Iterable[Waiting],
    open_cameras: Collection[str],
    seen_at: Mapping[str, float],
    now: float,
) -> list[Waiting]:
    """Return the first window of each camera, the most needed first."""

    def need(each: Waiting) -> tuple[int, float]:
        unseen = seen_at.get(each.camera, float("-inf"))
        rank = 0 if now - unseen >= FLOOR else 1 if each.camera in open_cameras else 2
        return rank, each.at if rank == 1 else unseen

    return sorted(in_order(waiting), key=need)

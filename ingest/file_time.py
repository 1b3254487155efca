"""The time of a recorded video: its start plus its timestamps."""

from dataclasses import dataclass

JUMP = 2.0
"""A step of the timestamps beyond this is a break."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """When a frame was recorded, in seconds since the epoch; whether time broke before it."""

    at: float
    broke: bool


class FileTime:
    """Place the frames of a file, in the order in which they are shown.

    A jump ahead is what the file says and is kept; after a jump back, or without timestamps, the
    next frame follows the last one by one `period`.
    """

    def __init__(self, start: float, period: float) -> None:
        self._period = period
        self._next = start
        self._zero: float | None = None
        self._last: float | None = None
        self._usual = 0.0

    def place(self, pts: float | None) -> Instant:
        """Return when the frame was recorded; `pts` is its own timestamp, if it has one."""
        if pts is None:
            return self._follow(self._next, broke=False)
        broke = self._jumped(pts)
        if self._zero is None or (broke and self._zero + pts < self._next):
            self._zero = self._next - pts
        return self._follow(self._zero + pts, broke=broke)

    def _jumped(self, pts: float) -> bool:
        """Return whether the timestamps jump; a slow camera's long steps are no jumps."""
        step = 0.0 if self._last is None else pts - self._last
        broke = not -JUMP <= step <= max(JUMP, 3 * self._usual)
        self._usual, self._last = max(0.0, step), pts
        return broke

    def _follow(self, at: float, *, broke: bool) -> Instant:
        self._next = max(self._next, at + self._period)
        return Instant(at=at, broke=broke)

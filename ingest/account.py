"""What became of every second of one camera, as its own process can tell, by the host's clock.

Each second is told once, in order. What is known of a second is noted as it happens, as a span with
a state and a reason; it is told with the window that follows, or by the deadline where none does.
No clock is read here: instants are seconds since the epoch.

The rules stand in `storage.claims`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from ingest.windows import instant
from storage.claims import Claim
from storage.records import CoverageState, Span, Window

TOO_FEW = "pictures came, too few for a window"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why there is no window of a span of time; one without an end goes on."""

    start: float
    end: float | None
    state: CoverageState
    reason: str = ""

    def moved(self, by: float) -> "Cause":
        """Return the same by a clock that was set by so many seconds."""
        return replace(self, start=self.start + by, end=None if self.end is None else self.end + by)

    def holds(self, start: float, end: float) -> bool:
        """Return whether it is why of a whole span."""
        return self.start <= start and (self.end is None or end <= self.end)


class Account:
    """Tell the seconds of a camera from `began` on, which is the start of this process.

    `period` is the time between two stills; what waits for its window for longer than `deadline`
    is told all the same.
    """

    def __init__(self, camera: str, began: float, *, period: float, deadline: float) -> None:
        self._camera = camera
        self._period = period
        self._deadline = deadline
        self._began = began
        self._until = began
        self._windows_until = float("-inf")
        self._has_begun = False
        self._causes: list[Cause] = []
        self._going_on: Cause | None = None

    def note(self, cause: Cause) -> None:
        """Note why a span has no window; of two about a second the earlier noted holds.

        One that goes on ends where another begins that does, and holds where nothing else does.
        """
        if cause.end is not None:
            self._causes.append(cause)
            return
        last = self._going_on
        if last is None or (last.state, last.reason) != (cause.state, cause.reason):
            self.resume(cause.start)
            self._going_on = cause

    def resume(self, at: float) -> None:
        """End what went on: there are pictures again."""
        last, self._going_on = self._going_on, None
        if last is not None and last.start < at:
            self._causes.append(replace(last, end=at))

    def window(self, window: Window) -> tuple[Window, list[Claim]]:
        """Give a window, by the host's clock, the time that it covers; claim what lies before it.

        The window itself is claimed by `kept` or `lost`, once it is known which.
        """
        start, end = window.start.timestamp(), window.end.timestamp()
        claims = self._begin()
        goes_on = self._until == self._windows_until and not window.after_gap
        if not goes_on and start - self._until > self._period:
            claims += self.tell(start, TOO_FEW)
        since = min(self._until, max(start, self._windows_until))
        self._windows_until = end = max(since, end + self._period)
        self._until = max(self._until, end)
        self._forget()
        return replace(window, covers=Span(start=instant(since), end=instant(end))), claims

    def is_overdue(self, now: float) -> bool:
        """Return whether something waits for its window for longer than the deadline."""
        return now - self._until > self._deadline

    def tell(
        self,
        until: float,
        otherwise: str,
        state: CoverageState = CoverageState.STREAM_BROKEN,
    ) -> list[Claim]:
        """Claim all up to an instant; what nothing was noted of is of this state, `otherwise`."""
        unknown = Cause(start=self._until, end=until, state=state, reason=otherwise)
        claims = [*self._begin(), *self._explained(until, unknown)]
        self._until = max(self._until, until)
        self._forget()
        return claims

    def lost(self, window: Window, reason: str) -> list[Claim]:
        """Claim that a window did not get into the log."""
        return self._of_window(window, CoverageState.INGEST_DOWN, reason)

    def kept(self, window: Window) -> list[Claim]:
        """Claim that a window waits in the log."""
        return self._of_window(window, CoverageState.WAITING)

    def seen(self, spans: Iterable[tuple[Span, CoverageState]], window: Window) -> list[Claim]:
        """Claim what the pictures show, up to the end of a window by the host's clock.

        What its last picture shows holds for all the time that the window covers.
        """
        last = window.end if window.covers is None else window.covers.end
        return [
            Claim(
                camera=self._camera,
                start=span.start,
                end=last if span.end > window.end else span.end,
                state=state,
            )
            for span, state in spans
        ]

    def set_clock(self, now: float, step: float) -> list[Claim]:
        """Go on by the host's clock, which is set by so many seconds at an instant before that."""
        if step >= 0:
            reason = f"the clock of this host was set ahead by {step:.1f} s"
            down = CoverageState.INGEST_DOWN
            self.note(Cause(start=now, end=now + step, state=down, reason=reason))
            return []
        claims = self.tell(now, "the clock of this host was set back")
        self._until = min(self._until, now + step)
        self._windows_until = float("-inf")
        moved = [cause.moved(step) for cause in self._causes]
        self._causes = [each for each in moved if each.end is None or each.end > self._until]
        if self._going_on is not None:
            self._going_on = self._going_on.moved(step)
        return claims

    def _begin(self) -> list[Claim]:
        """Claim, once, that nobody watched before this process."""
        if self._has_begun:
            return []
        self._has_begun = True
        state, end = CoverageState.INGEST_DOWN, instant(self._began)
        return [Claim(camera=self._camera, start=None, end=end, state=state)]

    def _explained(self, until: float, unknown: Cause) -> Iterator[Claim]:
        """Yield claims of the time up to an instant, by what was noted of it."""
        causes = [*self._causes, *([self._going_on] if self._going_on else [])]
        ends = [end for each in causes for end in (each.start, each.end) if end is not None]
        edges = {self._until, until, *(each for each in ends if self._until < each < until)}
        for start, end in pairwise(sorted(edges)):
            why = next((each for each in causes if each.holds(start, end)), unknown)
            if end <= until and instant(start) < instant(end):
                yield Claim(
                    camera=self._camera,
                    start=instant(start),
                    end=instant(end),
                    state=why.state,
                    reason=why.reason,
                )

    def _of_window(self, window: Window, state: CoverageState, reason: str = "") -> list[Claim]:
        if window.covers is None or window.covers.start == window.covers.end:
            return []
        span = window.covers
        return [
            Claim(camera=self._camera, start=span.start, end=span.end, state=state, reason=reason)
        ]

    def _forget(self) -> None:
        self._causes = [each for each in self._causes if each.end is None or each.end > self._until]

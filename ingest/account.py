"""What became of every second of one camera, as its own process can tell, by the host's clock.

Each second is told once, in order. What is known of a second is noted as it happens, as a span with
a state and a reason; it is told with the window that follows, or by the deadline where none does.
No clock is read here: instants are seconds since the epoch.

The rules stand in `storage.claims`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from storage.claims import Claim
from storage.records import CoverageState, Span, Window

_UNTOLD = "pictures come, and make no window"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why there is no window of a span of time; one without an end goes on."""

    start: float
    end: float | None
    state: CoverageState
    reason: str = ""


class Account:
    """Tell the seconds of a camera from `began` on, which is the start of this process.

    `period` is the time between two stills; what nothing else explains `deadline` seconds after
    it is told all the same.
    """

    def __init__(self, camera: str, began: float, *, period: float, deadline: float) -> None:
        self._camera = camera
        self._period = period
        self._deadline = deadline
        self._began = began
        self._until = began
        self._has_begun = False
        self._causes: list[Cause] = []

    @property
    def until(self) -> float:
        """Return up to when all is told."""
        return self._until

    def note(self, cause: Cause) -> None:
        """Note why a span has no window; of two about a second the earlier noted holds.

        What went on ends where something else begins.
        """
        last = self._causes[-1] if self._causes else None
        if last is not None and last.end is None:
            self._causes[-1] = replace(last, end=max(last.start, cause.start))
        self._causes.append(cause)

    def resume(self, at: float) -> None:
        """End what went on: there are pictures again."""
        last = self._causes[-1] if self._causes else None
        if last is not None and last.end is None:
            self._causes[-1] = replace(last, end=max(last.start, at))

    def window(self, window: Window, start: float, end: float) -> tuple[Window, list[Claim]]:
        """Give a window the time that it covers, and claim what lies before it.

        `start` and `end` are its first and last still by the host's clock.
        """
        claims = self._tell(start) if start - self._until > self._period else self._begin()
        since = min(self._until, start) if window.after_gap else self._until
        end = max(since, end + self._period)
        self._until = max(self._until, end)
        self._forget()
        return replace(window, covers=Span(start=_at(since), end=_at(end))), claims

    def overdue(self, now: float, in_hand: float | None) -> list[Claim]:
        """Claim what waits for its window for longer than the deadline.

        `in_hand` is the first still that waits for its window, which may come yet.
        """
        if now - self._until <= self._deadline:
            return []
        return self._tell(now if in_hand is None else min(now, in_hand))

    def set_back(self, now: float) -> None:
        """Tell on from an earlier instant: the host's clock was set back."""
        self._until = min(self._until, now)
        self._causes = [each for each in self._causes if each.end is None and each.start <= now]

    def _begin(self) -> list[Claim]:
        """Claim, once, that nobody watched before this process."""
        if self._has_begun:
            return []
        self._has_begun = True
        state, end = CoverageState.INGEST_DOWN, _at(self._began)
        return [Claim(camera=self._camera, start=None, end=end, state=state)]

    def _tell(self, until: float) -> list[Claim]:
        claims = [*self._begin(), *self._explained(until)]
        self._until = max(self._until, until)
        self._forget()
        return claims

    def _explained(self, until: float) -> Iterator[Claim]:
        """Yield claims of the time up to an instant, by what was noted of it."""
        at = self._until
        for cause in sorted(self._causes, key=lambda each: each.start):
            end = until if cause.end is None else min(cause.end, until)
            if end <= at or cause.start >= until:
                continue
            if cause.start > at:
                yield self._claim(at, cause.start, CoverageState.STREAM_BROKEN, _UNTOLD)
                at = cause.start
            yield self._claim(at, end, cause.state, cause.reason)
            at = end
        if at < until:
            yield self._claim(at, until, CoverageState.STREAM_BROKEN, _UNTOLD)

    def _claim(self, start: float, end: float, state: CoverageState, reason: str) -> Claim:
        return Claim(
            camera=self._camera, start=_at(start), end=_at(end), state=state, reason=reason
        )

    def _forget(self) -> None:
        self._causes = [
            each for each in self._causes if each.end is None or each.end > self._until
        ]


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds, 3), UTC)

"""Track coverage: claim each second of one camera once, in order, by the host's clock.

A span without a window is recorded as it happens, with a state and a reason. It is claimed with the
next window, or at the deadline if none comes. No clock is read here: instants are seconds since the
epoch. `storage.records.claims` defines the rules.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from ingest.windows import instant
from storage.records.claims import Claim
from storage.records.records import CoverageState, TimeSpan, Window

TOO_FEW_PICTURES = "pictures came, too few for a window"


@dataclass(frozen=True, slots=True, kw_only=True)
class UncoveredSpan:
    """Why a span of time has no window; a span without an end is ongoing."""

    start: float
    end: float | None
    state: CoverageState
    reason: str = ""

    def shifted(self, by: float) -> "UncoveredSpan":
        """Return the span by a clock that was set by this many seconds."""
        return replace(self, start=self.start + by, end=None if self.end is None else self.end + by)

    def is_spanning(self, start: float, end: float) -> bool:
        """Return whether the span contains start to end."""
        return self.start <= start and (self.end is None or end <= self.end)


class CoverageTracker:
    """Claim the seconds of a camera from `started_at` on, the start of this process.

    `period` is the time between two stills. Time that has waited for its window longer than
    `deadline` is overdue.
    """

    def __init__(self, camera: str, started_at: float, *, period: float, deadline: float) -> None:
        self._camera = camera
        self._period = period
        self._deadline = deadline
        self._started_at = started_at
        self._claimed_until = started_at
        self._windows_until = float("-inf")
        self._has_claimed_start = False
        self._uncovered: list[UncoveredSpan] = []
        self._ongoing: UncoveredSpan | None = None

    def add_uncovered(self, uncovered: UncoveredSpan) -> None:
        """Record why a span has no window; if two overlap, the one recorded first counts.

        An ongoing span counts only where no other does; the next ongoing span ends it.
        """
        if uncovered.end is not None:
            self._uncovered.append(uncovered)
            return
        ongoing = self._ongoing
        if ongoing is None or (ongoing.state, ongoing.reason) != (
            uncovered.state,
            uncovered.reason,
        ):
            self.end_ongoing(uncovered.start)
            self._ongoing = uncovered

    def end_ongoing(self, at: float) -> None:
        """End the ongoing span: there are pictures again."""
        ongoing, self._ongoing = self._ongoing, None
        if ongoing is not None and ongoing.start < at:
            self._uncovered.append(replace(ongoing, end=at))

    def cover_window(self, window: Window) -> tuple[Window, list[Claim]]:
        """Return a window with the time that it covers, and the claims of the time before it.

        `waiting_claims` or `lost_claims` claims the window itself, once the outcome is known.
        """
        start, end = window.start.timestamp(), window.end.timestamp()
        claims = self._claim_start()
        goes_on = self._claimed_until == self._windows_until and not window.after_gap
        if not goes_on and start - self._claimed_until > self._period:
            claims += self.claim_until(start, TOO_FEW_PICTURES)
        since = min(self._claimed_until, max(start, self._windows_until))
        self._windows_until = end = max(since, end + self._period)
        self._claimed_until = max(self._claimed_until, end)
        self._drop_past()
        return replace(window, covers=TimeSpan(start=instant(since), end=instant(end))), claims

    def is_overdue(self, now: float) -> bool:
        """Return whether time has waited for its window longer than the deadline."""
        return now - self._claimed_until > self._deadline

    def claim_until(
        self,
        until: float,
        default_reason: str,
        default_state: CoverageState = CoverageState.STREAM_BROKEN,
    ) -> list[Claim]:
        """Claim all time until an instant; the default applies where no span was recorded."""
        default = UncoveredSpan(
            start=self._claimed_until, end=until, state=default_state, reason=default_reason
        )
        claims = [*self._claim_start(), *self._claims_until(until, default)]
        self._claimed_until = max(self._claimed_until, until)
        self._drop_past()
        return claims

    def lost_claims(self, window: Window, reason: str) -> list[Claim]:
        """Claim that a window is not in the log."""
        return self._window_claims(window, CoverageState.INGEST_DOWN, reason)

    def waiting_claims(self, window: Window) -> list[Claim]:
        """Claim that a window waits in the log."""
        return self._window_claims(window, CoverageState.WAITING)

    def scene_claims(
        self, spans: Iterable[tuple[TimeSpan, CoverageState]], window: Window
    ) -> list[Claim]:
        """Claim the states of the scene in a window, by the host's clock.

        The state of its last picture lasts until the end of the time that the window covers.
        """
        covered_until = window.end if window.covers is None else window.covers.end
        return [
            Claim(
                camera=self._camera,
                start=span.start,
                end=covered_until if span.end > window.end else span.end,
                state=state,
            )
            for span, state in spans
        ]

    def set_clock(self, now: float, step: float) -> list[Claim]:
        """Follow a step of the host's clock; `now` is the time before the step."""
        if step >= 0:
            reason = f"the clock of this host was set ahead by {step:.1f} s"
            down = CoverageState.INGEST_DOWN
            self.add_uncovered(UncoveredSpan(start=now, end=now + step, state=down, reason=reason))
            return []
        claims = self.claim_until(now, "the clock of this host was set back")
        self._claimed_until = min(self._claimed_until, now + step)
        self._windows_until = float("-inf")
        self._uncovered = [each.shifted(step) for each in self._uncovered]
        self._drop_past()
        if self._ongoing is not None:
            self._ongoing = self._ongoing.shifted(step)
        return claims

    def _claim_start(self) -> list[Claim]:
        """Claim, once, that the time before this process is not covered."""
        if self._has_claimed_start:
            return []
        self._has_claimed_start = True
        state, end = CoverageState.INGEST_DOWN, instant(self._started_at)
        return [Claim(camera=self._camera, start=None, end=end, state=state)]

    def _claims_until(self, until: float, default: UncoveredSpan) -> Iterator[Claim]:
        """Yield claims until an instant, by the recorded spans."""
        causes = [*self._uncovered, *([self._ongoing] if self._ongoing else [])]
        ends = [end for each in causes for end in (each.start, each.end) if end is not None]
        edges = {
            self._claimed_until,
            until,
            *(each for each in ends if self._claimed_until < each < until),
        }
        for start, end in pairwise(sorted(edges)):
            cause = next((each for each in causes if each.is_spanning(start, end)), default)
            if end <= until and instant(start) < instant(end):
                yield Claim(
                    camera=self._camera,
                    start=instant(start),
                    end=instant(end),
                    state=cause.state,
                    reason=cause.reason,
                )

    def _window_claims(self, window: Window, state: CoverageState, reason: str = "") -> list[Claim]:
        if window.covers is None or window.covers.start == window.covers.end:
            return []
        span = window.covers
        return [
            Claim(camera=self._camera, start=span.start, end=span.end, state=state, reason=reason)
        ]

    def _drop_past(self) -> None:
        self._uncovered = [
            each for each in self._uncovered if each.end is None or each.end > self._claimed_until
        ]

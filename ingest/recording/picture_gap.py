"""Explain the time since the last picture."""

from dataclasses import dataclass

from storage.records.records import CoverageState

_MIN_GAP = 1.0
"""Seconds without a picture that are no gap."""
_BROKEN = CoverageState.STREAM_BROKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class GapCause:
    """Why there is no picture, as a state of coverage."""

    state: CoverageState
    reason: str


class PictureGap:
    """The time since the last picture of a stream, and why there was none, if known."""

    def __init__(self, fps: float) -> None:
        self._min_gap = max(_MIN_GAP, 2 / fps)
        self._cause: GapCause | None = None

    def record_missing(self, reason: str) -> None:
        """Record data without a picture; the first reason counts."""
        if self._cause is None:
            self._cause = GapCause(state=_BROKEN, reason=reason)

    def record_overload(self, reason: str) -> None:
        """Record that the next pictures are skipped."""
        self._cause = GapCause(state=CoverageState.OVERLOADED, reason=reason)

    def end(self, seconds: float, *, after_gap: bool) -> GapCause | None:
        """Record a picture, `seconds` after the last; return why there was none, if this is a gap.

        `after_gap` says that the stream itself has a gap there.
        """
        cause, self._cause = self._cause, None
        if not after_gap and (cause is None or seconds <= self._min_gap):
            return None
        return cause or GapCause(state=_BROKEN, reason=f"no picture came for {seconds:.0f} s")

    def current_cause(self, seconds: float | None) -> GapCause:
        """Return why no window came, `seconds` after the last picture (None: no picture yet)."""
        if self._cause is not None:
            return self._cause
        if seconds is None or seconds > self._min_gap:
            return GapCause(state=_BROKEN, reason="no picture comes")
        return GapCause(state=_BROKEN, reason="pictures come, and make no window")

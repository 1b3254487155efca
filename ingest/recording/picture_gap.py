"""Why there is no picture: what is known of the time since the last one."""

from dataclasses import dataclass

from storage.records.records import CoverageState

_MIN_GAP = 1.0
"""Seconds without a picture that are no hole."""
_BROKEN = CoverageState.STREAM_BROKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class GapCause:
    """Why there is no picture, for the ledger."""

    state: CoverageState
    reason: str


class PictureGap:
    """The time since the last picture of a stream, and why there was none, if that is known."""

    def __init__(self, fps: float) -> None:
        self._min_gap = max(_MIN_GAP, 2 / fps)
        self._cause: GapCause | None = None

    def record_missing(self, reason: str) -> None:
        """Take that what came is no picture; the first reason counts."""
        if self._cause is None:
            self._cause = GapCause(state=_BROKEN, reason=reason)

    def record_overload(self, reason: str) -> None:
        """Take that what comes next is skipped."""
        self._cause = GapCause(state=CoverageState.OVERLOADED, reason=reason)

    def end(self, seconds: float, *, after_gap: bool) -> GapCause | None:
        """Take that a picture came after so long; return why there was none, if that is a hole.

        `broke` says that the stream itself has a gap there.
        """
        cause, self._cause = self._cause, None
        if not after_gap and (cause is None or seconds <= self._min_gap):
            return None
        return cause or GapCause(state=_BROKEN, reason=f"no picture came for {seconds:.0f} s")

    def current_cause(self, seconds: float | None) -> GapCause:
        """Return why no window came, so long after the last picture, None where there was none."""
        if self._cause is not None:
            return self._cause
        if seconds is None or seconds > self._min_gap:
            return GapCause(state=_BROKEN, reason="no picture comes")
        return GapCause(state=_BROKEN, reason="pictures come, and make no window")

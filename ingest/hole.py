"""Why there is no picture: what is known of the time since the last one."""

from dataclasses import dataclass

from storage.records import CoverageState

_SHORTEST = 1.0
"""Seconds without a picture that are no hole."""
_BROKEN = CoverageState.STREAM_BROKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why there is no picture, for the ledger."""

    state: CoverageState
    reason: str


class Hole:
    """The time since the last picture of a stream, and why there was none, if that is known."""

    def __init__(self, fps: float) -> None:
        self._shortest = max(_SHORTEST, 2 / fps)
        self._why: Why | None = None

    def missed(self, reason: str) -> None:
        """Take that what came is no picture; the first reason counts."""
        if self._why is None:
            self._why = Why(state=_BROKEN, reason=reason)

    def overloaded(self, reason: str) -> None:
        """Take that what comes next is skipped."""
        self._why = Why(state=CoverageState.OVERLOADED, reason=reason)

    def end(self, seconds: float, *, broke: bool) -> Why | None:
        """Take that a picture came after so long; return why there was none, if that is a hole.

        `broke` says that the stream itself has a gap there.
        """
        why, self._why = self._why, None
        if not broke and (why is None or seconds <= self._shortest):
            return None
        return why or Why(state=_BROKEN, reason=f"no picture came for {seconds:.0f} s")

    def why(self, seconds: float | None) -> Why:
        """Return why no window came, so long after the last picture, None where there was none."""
        if self._why is not None:
            return self._why
        if seconds is None or seconds > self._shortest:
            return Why(state=_BROKEN, reason="no picture comes")
        return Why(state=_BROKEN, reason="pictures come, and make no window")

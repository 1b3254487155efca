"""Coverage claims of the analyzer, by the rules of `storage.records.claims`."""

from dataclasses import dataclass

from storage.records.claims import Claim, covered_span
from storage.records.records import CoverageState, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryOutcome:
    """The result of a log entry: messages for `topic` and the coverage of its window, if any."""

    topic: str
    values: list[bytes]
    state: CoverageState
    window: Window | None


class GapTracker:
    """Tracks per camera why the time before its next window has no coverage, if it has none.

    Nothing is persisted: a new process treats all cameras as interrupted, and a claim about time
    that is covered already changes nothing.
    """

    def __init__(self) -> None:
        self._first_gap = CoverageState.ANALYZER_DOWN
        self._has_started = False
        self._gap_by_camera: dict[str, CoverageState | None] = {}

    def record_missed(self) -> None:
        """Mark all cameras as interrupted: windows were dropped before they were read."""
        if self._has_started:
            self._first_gap = CoverageState.SHED
            self._gap_by_camera.clear()

    def restore(self, camera: str, *, readable: bool) -> None:
        """Restore, after a restart, whether the last window of a camera was readable."""
        if readable:
            self._gap_by_camera.pop(camera, None)
        else:
            self._gap_by_camera[camera] = CoverageState.CORRUPT

    def record(self, camera: str, outcome: EntryOutcome) -> list[Claim]:
        """Return the claims for the window of an outcome and for the gap before it."""
        self._has_started = True
        if outcome.window is None:
            self._gap_by_camera[camera] = outcome.state
            return []
        covered = covered_span(outcome.window)
        gap = self._gap_by_camera.get(camera, self._first_gap)
        self._gap_by_camera[camera] = None
        claims = (
            [] if gap is None else [Claim(camera=camera, start=None, end=covered.start, state=gap)]
        )
        if covered.start < covered.end:
            claims.append(
                Claim(camera=camera, start=covered.start, end=covered.end, state=outcome.state)
            )
        return claims

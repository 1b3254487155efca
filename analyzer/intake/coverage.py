"""Coverage claims of the analyzer, by the rules of `storage.records.claims`."""

from dataclasses import dataclass

from storage.records.claims import Claim, covered_span
from storage.records.records import CoverageState, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryOutcome:
    """What an entry of the log turned into; no `window` where it accounts for no time."""

    topic: str
    values: list[bytes]
    state: CoverageState
    window: Window | None


class GapTracker:
    """Which cameras are read without a break, and why what waits before the next window is lost.

    Nothing of it has to outlive the process: one that starts takes all cameras as interrupted,
    and where nothing waits a claim about it changes nothing.
    """

    def __init__(self) -> None:
        self._first_gap = CoverageState.ANALYZER_DOWN
        self._has_started = False
        self._gap_by_camera: dict[str, CoverageState | None] = {}

    def record_missed(self) -> None:
        """Take all cameras as interrupted: windows were dropped before they were read."""
        if self._has_started:
            self._first_gap = CoverageState.SHED
            self._gap_by_camera.clear()

    def restore(self, camera: str, *, readable: bool) -> None:
        """Take up, after a restart, whether the last window of a camera could be read."""
        if readable:
            self._gap_by_camera.pop(camera, None)
        else:
            self._gap_by_camera[camera] = CoverageState.CORRUPT

    def record(self, camera: str, outcome: EntryOutcome) -> list[Claim]:
        """Return what an outcome says of its camera, and of what waits before it."""
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

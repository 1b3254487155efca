"""What the analyzer can tell of the seconds of the cameras; the rules stand in `storage.claims`."""

from dataclasses import dataclass

from storage.claims import Claim, covered_by
from storage.records import CoverageState, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an entry of the log turned into; no `window` where it accounts for no time."""

    topic: str
    values: list[bytes]
    state: CoverageState
    window: Window | None


class Seen:
    """Which cameras are read without a break, and why what waits before the next window is lost.

    Nothing of it has to outlive the process: one that starts takes all cameras as interrupted,
    and where nothing waits a claim about it changes nothing.
    """

    def __init__(self) -> None:
        self._why = CoverageState.ANALYZER_DOWN
        self._began = False
        self._unbroken: dict[str, CoverageState | None] = {}

    def missed(self) -> None:
        """Take all cameras as interrupted: windows were dropped before they were read."""
        if self._began:
            self._why = CoverageState.SHED
            self._unbroken.clear()

    def recall(self, camera: str, *, readable: bool) -> None:
        """Take up, after a restart, whether the last window of a camera could be read."""
        if readable:
            self._unbroken.pop(camera, None)
        else:
            self._unbroken[camera] = CoverageState.CORRUPT

    def claims(self, camera: str, outcome: Outcome) -> list[Claim]:
        """Return what an outcome says of its camera, and of what waits before it."""
        self._began = True
        if outcome.window is None:
            self._unbroken[camera] = outcome.state
            return []
        covers = covered_by(outcome.window)
        lost = self._unbroken.get(camera, self._why)
        self._unbroken[camera] = None
        told = (
            [] if lost is None else [Claim(camera=camera, start=None, end=covers.start, state=lost)]
        )
        if covers.start < covers.end:
            told.append(
                Claim(camera=camera, start=covers.start, end=covers.end, state=outcome.state)
            )
        return told

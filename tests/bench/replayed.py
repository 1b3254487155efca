"""A watcher that is handed visual tokens instead of stills, for measuring the memory alone."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from torch import Tensor

from analyzer.batches import Failure
from analyzer.memory import Memory
from analyzer.videoxl2.speaker import Seen
from analyzer.watcher import Watcher
from storage.records import Clock, ClockSource, Still, Window

BEGIN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
STILLS = 16


class Replayed(Watcher):
    """Sees in the nth window of a camera the nth of `tokens`, over and over."""

    tokens: Sequence[Tensor] = ()

    def _see(self, runs: Sequence[tuple[Memory, Sequence[Window]]]) -> list[list[Seen | Failure]]:
        return [[self._seen(window) for window in run] for _, run in runs]

    def _seen(self, window: Window) -> Seen:
        nth = round((window.start - BEGIN).total_seconds()) // STILLS
        return Seen(self.tokens[nth % len(self.tokens)], None, 0)


def empty_window(nth: int, camera: str = "dock") -> Window:
    """Return the nth window of a camera, whose stills nobody will look at."""
    start = BEGIN + timedelta(seconds=nth * STILLS)
    stills = tuple(
        Still(at=start + timedelta(seconds=s), jpeg=b"", width=1, height=1) for s in range(STILLS)
    )
    clock = Clock(source=ClockSource.RECEIVED, offset=0.0)
    return Window(camera=camera, stills=stills, clock=clock, after_gap=False)

"""A watcher that is handed visual tokens instead of stills, for measuring the memory alone."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from torch import Tensor

from analyzer.batching import Failure
from analyzer.kv.encoded import EncodedWindow
from analyzer.kv.memory import Memory
from analyzer.watcher import Watcher
from storage.records.records import ClockSource, Still, Window, WindowClock

BEGIN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
STILLS = 16


class TokenReplayWatcher(Watcher):
    """Sees in the nth window of a camera the nth of `tokens`, over and over."""

    tokens: Sequence[Tensor] = ()

    def _encode(
        self, runs: Sequence[tuple[Memory, Sequence[Window]]]
    ) -> list[list[EncodedWindow | Failure]]:
        return [[self._encoded(window) for window in run] for _, run in runs]

    def _encoded(self, window: Window) -> EncodedWindow:
        nth = round((window.start - BEGIN).total_seconds()) // STILLS
        return EncodedWindow(self.tokens[nth % len(self.tokens)], None, 0)


def empty_window(nth: int, camera: str = "dock") -> Window:
    """Return the nth window of a camera, whose stills nobody will look at."""
    start = BEGIN + timedelta(seconds=nth * STILLS)
    stills = tuple(
        Still(at=start + timedelta(seconds=s), jpeg=b"", width=1, height=1) for s in range(STILLS)
    )
    clock = WindowClock(source=ClockSource.RECEIVED, offset=0.0)
    return Window(camera=camera, stills=stills, clock=clock, after_gap=False)

"""From shots to a window in the log, and from claims to the ledger."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from ingest.account import Account
from ingest.camera_clock import CameraClock, choose_clock
from ingest.host_clock import HostClock
from ingest.teller import Teller
from ingest.windows import Shot, spans_of
from storage.claims import Claim
from storage.errors import StorageBlocked, TooLarge
from storage.log import Log
from storage.records import Window


class WindowWriter:
    """Write one camera's windows, each between the claims about what lies before it and it."""

    def __init__(self, camera: str, log: Log, host: HostClock, account: Account) -> None:
        self._camera = camera
        self._host = host
        self._account = account
        self._teller = Teller(log)
        self._clock = CameraClock(camera)
        self._after_gap = True

    def gap(self) -> None:
        """Take that what comes next does not follow the last window."""
        self._after_gap = True

    def write(self, shots: Sequence[Shot]) -> str:
        """Write a window of shots; return why the log does not take it, empty where it does."""
        host = self._host.at(0.0)
        offsets = [
            shot.camera_time - shot.at - host for shot in shots if shot.camera_time is not None
        ]
        seen = Window(
            camera=self._camera,
            stills=tuple(shot.still(host) for shot in shots),
            clock=choose_clock(offsets),
            after_gap=self._after_gap,
        )
        window, before = self._account.window(seen)
        shown = self._account.seen(spans_of(shots, seen), replace(seen, covers=window.covers))
        return self._append(self._clock.moved(window), before, shown)

    def tell(self, claims: Iterable[Claim]) -> None:
        """Write claims alone; where storage is blocked, they come first the next time."""
        with suppress(StorageBlocked):
            self._teller.tell(claims)

    def _append(self, window: Window, before: list[Claim], shown: list[Claim]) -> str:
        """Append a window, and claims about it and what lies before it.

        What lies before comes first, which matters where a broker takes one after the other: an
        analyzer that is quick would otherwise move the ledger beyond it, and nobody could tell of
        it any more if this process died in between.
        """
        try:
            self._teller.append(window, before, [*shown, *self._account.kept(window)])
        except (StorageBlocked, TooLarge) as full:
            reason = f"the log takes no windows: {full}"
            self.gap()
            self.tell([*shown, *self._account.lost(window, reason)])
            return reason
        self._clock.keep(window)
        self._after_gap = False
        return ""

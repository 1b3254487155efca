"""What became of every second of one camera, as its own process can tell.

The rules stand in `storage.claims`. No clock is read here.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from storage.claims import Claim, encode_claim, period_of
from storage.log import COVERAGE, WINDOWS, Log, Message
from storage.records import CoverageState, Span, Window
from storage.wire import encode_window


class Account:
    """Tell each second of a camera once, in order, from `began` on: the start of the process."""

    def __init__(self, camera: str, began: datetime, period: timedelta) -> None:
        self._camera = camera
        self._began = began
        self._period = period
        self._until = began
        self._resumed = False
        self._reason = ""

    def window(self, window: Window, dropped: datetime | None) -> tuple[Window, list[Claim]]:
        """Give a window the time that it covers, and claim what lies before it.

        `dropped` is the last still that was lost since the window before. The window itself is
        claimed by `kept` or `lost`, once it is known which.
        """
        period = period_of(window) or self._period
        before = CoverageState.CAMERA_DOWN if self._resumed else CoverageState.INGEST_DOWN
        claims = self._resume() + self._until_lost(dropped)
        if window.start - self._until > period:
            claims += self._tell(window.start, before, self._reason)
        self._reason = ""
        start = min(self._until, window.start) if window.after_gap else self._until
        end = max(start, window.end + period)
        self._until = max(self._until, end)
        return replace(window, covers=Span(start=start, end=end)), claims

    def gone(self, now: datetime, dropped: datetime | None, reason: str) -> list[Claim]:
        """Claim that there is no picture since the last still, and why.

        The reason also holds from `now` until the next window, unless another comes first.
        """
        claims = self._resume() + self._until_lost(dropped)
        self._reason = reason
        return claims + self._tell(now, CoverageState.CAMERA_DOWN, reason)

    def kept(self, window: Window) -> list[Claim]:
        """Claim that a window waits in the log."""
        return self._of_window(window, CoverageState.WAITING)

    def lost(self, window: Window) -> list[Claim]:
        """Claim that a window did not get into the log."""
        return self._of_window(window, CoverageState.SHED)

    def seen(self, spans: Iterable[tuple[Span, CoverageState]]) -> list[Claim]:
        """Claim what the pictures show."""
        return [
            Claim(camera=self._camera, start=span.start, end=span.end, state=state)
            for span, state in spans
        ]

    def _resume(self) -> list[Claim]:
        """Claim, once, that nobody watched before this process."""
        if self._resumed:
            return []
        self._resumed = True
        down = CoverageState.INGEST_DOWN
        return [Claim(camera=self._camera, start=None, end=self._began, state=down)]

    def _until_lost(self, dropped: datetime | None) -> list[Claim]:
        return [] if dropped is None else self._tell(dropped + self._period, CoverageState.SHED)

    def _tell(self, until: datetime, state: CoverageState, reason: str = "") -> list[Claim]:
        if until <= self._until:
            return []
        claim = Claim(camera=self._camera, start=self._until, end=until, state=state, reason=reason)
        self._until = until
        return [claim]

    def _of_window(self, window: Window, state: CoverageState) -> list[Claim]:
        if window.covers is None or window.covers.start == window.covers.end:
            return []
        span = window.covers
        return [Claim(camera=self._camera, start=span.start, end=span.end, state=state)]


class Teller:
    """Append windows and claims to the log; claims that a full disk refuses come first later."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._untold: list[Claim] = []

    def tell(self, claims: Iterable[Claim]) -> None:
        """Append all claims that are not in the log yet; where storage is blocked they wait."""
        self._hold(claims)
        if self._untold:
            self._log.append(COVERAGE, self._untold[0].camera, *map(encode_claim, self._untold))
            self._untold.clear()

    def append(self, window: Window, before: Iterable[Claim], after: Iterable[Claim]) -> None:
        """Append a window between the claims before it and those about it, in one transaction.

        Where it is refused (StorageBlocked, TooLarge) only the claims `before` wait. A broker may
        have kept some of it: what is told of the window then is outweighed by who reads it.
        """
        self._hold(before)
        value = encode_window(window)
        self._log.append_messages(
            [
                *map(_message, self._untold),
                Message(topic=WINDOWS, key=window.camera, value=value),
                *map(_message, after),
            ]
        )
        self._untold.clear()

    def _hold(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            self._add(claim)

    def _add(self, claim: Claim) -> None:
        last = self._untold[-1] if self._untold else None
        if last is not None and last.start and _continues(last, claim):
            self._untold[-1] = replace(last, end=claim.end)
        else:
            self._untold.append(claim)


def _message(claim: Claim) -> Message:
    return Message(topic=COVERAGE, key=claim.camera, value=encode_claim(claim))


def _continues(last: Claim, claim: Claim) -> bool:
    """Return whether a claim says the same as the one before it, of the time after that."""
    said = (last.end, last.state, last.reason)
    return said == (claim.start, claim.state, claim.reason)

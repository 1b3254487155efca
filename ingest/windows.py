"""Windows: so many consecutive stills, on one clock, strictly increasing for ever."""

from dataclasses import replace
from datetime import datetime, timedelta

from ingest.clock import JUMP, choose_clock
from storage.records import Clock, ClockSource, Still, Window

_GROUP = 4


class Windows:
    """Collect the stills of one camera, across all its connections, into windows."""

    def __init__(self, camera: str, size: int, fallback: ClockSource) -> None:
        self._camera = camera
        self._size = size
        self._fallback = fallback
        self._after_gap = False
        self._stills: list[Still] = []
        self._claims: list[float] = []
        self._told: datetime | None = None
        self._shift = timedelta(0)
        self._dropped: datetime | None = None

    def break_off(self) -> None:
        """Drop the stills in hand: the stream broke, and the next window says so."""
        if self._stills:
            self._dropped = self._stills[-1].at + self._shift
        self._stills.clear()
        self._claims.clear()
        self._after_gap = True

    def take_dropped(self) -> datetime | None:
        """Return, once, when the last of the stills that were dropped was seen."""
        dropped, self._dropped = self._dropped, None
        return dropped

    def add(self, still: Still, claim: float | None) -> Window | None:
        """Take a still; return the window that it completes.

        `claim` is the camera's own time minus the time of the still, in seconds.
        """
        self._stills.append(still)
        if claim is not None:
            self._claims.append(claim)
        return self._close() if len(self._stills) == self._size else None

    def rest(self) -> Window | None:
        """Return the stills in hand as a shorter window, at the end of a video file.

        A window holds whole groups of four; what is over is dropped.
        """
        del self._stills[len(self._stills) // _GROUP * _GROUP :]
        return self._close() if self._stills else None

    def _close(self) -> Window | None:
        clock, stills = self._on_one_clock()
        fresh = [still for still in stills if self._told is None or still.at > self._told]
        if len(fresh) < len(stills):
            self._stills = self._stills[len(stills) - len(fresh) :]
            self._claims.clear()
            self._after_gap = True
            return None
        window = Window(
            camera=self._camera, stills=tuple(stills), clock=clock, after_gap=self._after_gap
        )
        self._stills, self._claims = [], []
        self._after_gap = False
        self._told = window.end
        return window

    def _on_one_clock(self) -> tuple[Clock, list[Still]]:
        """Move the stills to the camera's clock, unless that would repeat what has been told."""
        clock = choose_clock(self._claims, self._fallback)
        shift = timedelta(0)
        if clock.source is ClockSource.CAMERA_NTP:
            shift = timedelta(milliseconds=round(clock.offset * 1000))
            if self._told is not None and self._stills[0].at + shift <= self._told:
                clock, shift = replace(clock, source=self._fallback), timedelta(0)
        if abs((shift - self._shift).total_seconds()) > JUMP:
            self._after_gap = True
        self._shift = shift
        return clock, [replace(still, at=still.at + shift) for still in self._stills]

"""Collect stills for windows: a fixed number of them, or whole groups of four at a break."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ingest.pictures.scene import SceneSignal
from ingest.pictures.stills import Jpeg
from ingest.timing.camera_clock import MAX_CLOCK_STEP
from storage.records.claims import still_period
from storage.records.records import CoverageState, Still, TimeSpan, Window

GROUP_SIZE = 4
"""The model reads stills in groups of four; a window contains whole groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """A picture that becomes a still.

    `at` is when it was seen, in seconds of the steady clock (in a file, since the epoch).
    `camera_time` is the camera's clock at that moment, in seconds since the epoch. `signals` say
    what is wrong with the scene.
    """

    at: float
    jpeg: Jpeg
    camera_time: float | None = None
    signals: tuple[SceneSignal, ...] = ()

    def is_after_clock_step(self, last: "Shot") -> bool:
        """Return whether the camera's clock stepped between the last shot and this one."""
        if last.camera_time is None or self.camera_time is None:
            return False
        return abs((self.camera_time - self.at) - (last.camera_time - last.at)) > MAX_CLOCK_STEP

    def still(self, offset: float) -> Still:
        """Return the still; `offset` is the epoch time at 0 of the shot's clock."""
        return Still(
            at=instant(self.at + offset),
            jpeg=self.jpeg.data,
            width=self.jpeg.width,
            height=self.jpeg.height,
        )


class ShotBuffer:
    """The shots of one stream that will make its next window."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._shots: list[Shot] = []

    @property
    def first(self) -> Shot | None:
        """Return the oldest shot."""
        return self._shots[0] if self._shots else None

    @property
    def last(self) -> Shot | None:
        """Return the latest shot."""
        return self._shots[-1] if self._shots else None

    def add(self, shot: Shot) -> Sequence[Shot]:
        """Add a shot; return the shots of the window that it completes, else none."""
        self._shots.append(shot)
        return self._take(self._size) if len(self._shots) == self._size else ()

    def take_groups(self) -> Sequence[Shot]:
        """Remove and return whole groups for a shorter window; the rest stays."""
        return self._take(len(self._shots) // GROUP_SIZE * GROUP_SIZE)

    def clear(self) -> None:
        """Drop all shots."""
        self._shots.clear()

    def _take(self, count: int) -> Sequence[Shot]:
        taken, self._shots = self._shots[:count], self._shots[count:]
        return taken


def instant(seconds: float) -> datetime:
    """Return the UTC instant of seconds since the epoch, to the millisecond."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def scene_spans(shots: Sequence[Shot], window: Window) -> list[tuple[TimeSpan, CoverageState]]:
    """Return the spans of a window in which the scene was not well, each with its state."""
    ends: dict[SceneSignal, datetime] = {}
    for shot, still in zip(shots, window.stills, strict=True):
        ends |= dict.fromkeys(shot.signals, still.at + still_period(window))
    return [(TimeSpan(start=each.since, end=end), each.state) for each, end in ends.items()]

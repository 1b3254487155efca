"""One camera: its address, and how to cut its stream into windows."""

from dataclasses import dataclass, field
from typing import TypeAlias

from ingest.settings import DecodeSettings
from storage.polygons import Point

Mask: TypeAlias = tuple[tuple[Point, ...], ...]
"""Polygons: corners (x, y) as shares of the width and height of the upright picture."""
_MIN_STALL_TIMEOUT = 10.0
_STALL_INTERVALS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A camera, and how to cut its stream into windows."""

    name: str
    url: str = field(repr=False)
    fps: float = 1.0
    stills_per_window: int = 16
    transport: str = "tcp"
    still_side: int = 640
    jpeg_quality: int = 85
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    mask: Mask = ()
    """Areas that are black on every still and ignored by the scene's health."""
    redirects: tuple[str, ...] = ()
    """Other hosts that it may redirect to; over RTSP they receive the password."""

    @property
    def stall_timeout(self) -> float:
        """Return the seconds for which the stream may be silent, by its frame rate."""
        return max(_MIN_STALL_TIMEOUT, _STALL_INTERVALS / self.fps)

"""What one camera is, as plain values."""

from dataclasses import dataclass, field

from ingest.masks import Mask

_MIN_STALL_TIMEOUT = 10.0
_STALL_INTERVALS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """How video is decoded: `auto` or `all` of its frames, with hardware `none` or `cuda`."""

    frames: str = "auto"
    hardware: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A camera and how its windows are cut; not `live` means that `url` is a path."""

    name: str
    url: str = field(repr=False)
    fps: float = 1.0
    stills_per_window: int = 16
    transport: str = "tcp"
    still_side: int = 640
    jpeg_quality: int = 85
    live: bool = True
    decode: DecodeOptions = DecodeOptions()
    mask: Mask = ()
    """What is black on every still, and left out of the health of the scene."""
    redirects: tuple[str, ...] = ()
    """Hosts beside its own that it may redirect to; with the password, over RTSP."""

    @property
    def stall_timeout(self) -> float:
        """Return for how many seconds a stream may be silent: a slow camera's steps are long."""
        return max(_MIN_STALL_TIMEOUT, _STALL_INTERVALS / self.fps)

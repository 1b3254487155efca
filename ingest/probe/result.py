"""What a probe has seen of a camera or a video file."""

from dataclasses import dataclass

from ingest.probe.stream_quality import ArrivalQuality, KeyframeQuality, TimestampQuality
from ingest.rtsp.authentication import Authentication
from ingest.timing.camera_clock import MAX_CLOCK_STEP
from storage.records.records import WindowClock


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSize:
    """Pictures as they are sent and as they are shown, upright and with square pixels.

    Sizes are in pixels, `rotation` in degrees, and `pixel_aspect` is a pixel's width by its height.
    """

    sent_width: int
    sent_height: int
    rotation: int
    pixel_aspect: float

    @property
    def width(self) -> int:
        """Return the width as shown."""
        return self.sent_height if self._is_turned else self._squared

    @property
    def height(self) -> int:
        """Return the height as shown."""
        return self._squared if self._is_turned else self.sent_height

    @property
    def _is_turned(self) -> bool:
        return self.rotation % 180 == 90

    @property
    def _squared(self) -> int:
        return max(1, round(self.sent_width * self.pixel_aspect))


@dataclass(frozen=True, slots=True, kw_only=True)
class OmittedPictures:
    """Why there was no picture after the first one, and how often that was told."""

    reason: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupWaits:
    """Seconds from the first try to connect until something came.

    `opened` is until the camera answered all requests, or answered and took its time; `picture`
    the first picture that may be shown, and `keyframe` the first keyframe that was decoded, None
    where none came. `for_keyframe` is for how long of that data came before a keyframe, and
    `reason` why there was no picture, as it was said last.
    """

    opened: float
    picture: float
    keyframe: float | None
    for_keyframe: float
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraTime:
    """What the camera's own clock says (RTCP sender reports, RFC 3550, 6.4.1).

    `after` is how many seconds after the first picture it came, None where it did not. `spread` is
    how far what it says differs. `clock` is what a window would go by.
    """

    clock: WindowClock
    after: float | None
    spread: float

    @property
    def is_steady(self) -> bool:
        """Return whether the clock goes without steps."""
        return self.after is not None and self.spread <= MAX_CLOCK_STEP


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a camera or a file sends; a file has no waits, arrivals and authentication.

    `seconds` is how long was looked, `fps` pictures a second, `lost` why a camera was lost before
    that time was over.
    """

    codec: str
    size: PictureSize
    seconds: float
    pictures: int
    fps: float
    keyframes: KeyframeQuality
    timestamps: TimestampQuality
    camera_time: CameraTime
    left_out: tuple[OmittedPictures, ...] = ()
    arrivals: ArrivalQuality | None = None
    waits: StartupWaits | None = None
    authentication: Authentication | None = None
    scheme: str = "file"
    transport: str = "tcp"
    lost: str | None = None

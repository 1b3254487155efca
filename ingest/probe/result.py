"""The result of probing a camera or a video file."""

from dataclasses import dataclass

from ingest.probe.stream_quality import ArrivalQuality, KeyframeQuality, TimestampQuality
from ingest.rtsp.authentication import Authentication
from ingest.timing.camera_clock import MAX_CLOCK_STEP
from storage.records.records import WindowClock


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSize:
    """The size of pictures as sent, and as displayed: upright, with square pixels.

    Sizes are in pixels, `rotation` in degrees; `pixel_aspect` is a pixel's width by its height.
    """

    sent_width: int
    sent_height: int
    rotation: int
    pixel_aspect: float

    @property
    def width(self) -> int:
        """Return the displayed width."""
        return self.sent_height if self._is_turned else self._squared

    @property
    def height(self) -> int:
        """Return the displayed height."""
        return self._squared if self._is_turned else self.sent_height

    @property
    def _is_turned(self) -> bool:
        return self.rotation % 180 == 90

    @property
    def _squared(self) -> int:
        return max(1, round(self.sent_width * self.pixel_aspect))


@dataclass(frozen=True, slots=True, kw_only=True)
class OmittedPictures:
    """A reason for missing pictures after the first one, and how often it was given."""

    reason: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupWaits:
    """Seconds from the start of the connection until each first event.

    `opened`: the stream was open, or the camera had answered but was slow. `picture`: the first
    picture to show. `keyframe`: the first decoded keyframe, None if none came. `for_keyframe` is
    how long data came before a keyframe, `reason` the last reason for a missing picture.
    """

    opened: float
    picture: float
    keyframe: float | None
    for_keyframe: float
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraTime:
    """The camera's own clock (RTCP sender reports, RFC 3550, 6.4.1).

    `after` is when it came, in seconds after the first picture, None if it did not. `spread` is the
    range of its offsets in seconds. `clock` is the clock that a window would use.
    """

    clock: WindowClock
    after: float | None
    spread: float

    @property
    def is_steady(self) -> bool:
        """Return whether the clock runs without steps."""
        return self.after is not None and self.spread <= MAX_CLOCK_STEP


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a camera or a file sends; a file has no waits, arrivals or authentication.

    `seconds` is the time watched, `fps` the pictures a second, `lost` why the camera was lost
    before the end.
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

"""Look at a camera or a video file for a few seconds and say what it sends."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ingest.address import address_of
from ingest.authentication import Authentication, authentication_of
from ingest.camera import Camera
from ingest.camera_clock import JUMP, choose_clock
from ingest.errors import CameraLost
from ingest.file_time import FileTime
from ingest.frames import Frame, NoPicture, Stream
from ingest.host_clock import HostClock
from ingest.source import Source
from ingest.stream_quality import (
    Arrivals,
    Keyframes,
    Sample,
    Timestamps,
    arrivals_of,
    keyframes_of,
    recorded_rate,
    timestamps_of,
)
from ingest.stream_time import StreamTime
from ingest.video_file import VideoFile
from storage.records import Clock, ClockSource

SECONDS = 10.0
"""How long to look from the first picture on."""
LONGEST_WAIT = 120.0
"""How long data may come without a picture, in seconds."""
_MOST_REASONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
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
class LeftOut:
    """Why pictures were left out, and how often: in all, and since the first picture."""

    reason: str
    count: int
    since_first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Seconds from the first try to connect until something came; None where it did not.

    `opened` is the answer to all requests, `data` the first that came of the video, `picture` the
    first picture that may be shown, and `keyframe` the first keyframe that was decoded.
    """

    opened: float
    data: float | None
    picture: float | None
    keyframe: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraTime:
    """What the camera's own clock says (RTCP sender reports, RFC 3550, 6.4.1).

    `after` is how many seconds after the first data it came, None where it did not. `spread` is how
    far what it says lies apart. `clock` is what a window would go by.
    """

    clock: Clock
    after: float | None
    spread: float

    @property
    def is_steady(self) -> bool:
        """Return whether the clock goes without steps."""
        return self.after is not None and self.spread <= JUMP


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a camera or a file sends; a file has no waits, arrivals and authentication.

    `seconds` is how long was looked, `fps` pictures a second, `lost` why a camera was lost before
    that time was over.
    """

    codec: str
    size: Size
    seconds: float
    pictures: int
    fps: float
    keyframes: Keyframes
    timestamps: Timestamps
    camera_time: CameraTime
    left_out: tuple[LeftOut, ...] = ()
    arrivals: Arrivals | None = None
    waits: Waits | None = None
    authentication: Authentication | None = None
    scheme: str = "file"
    transport: str = "tcp"
    lost: str | None = None


def probe(
    url: str,
    *,
    transport: str = "tcp",
    seconds: float = SECONDS,
    say: Callable[[str], None] = lambda _: None,
    open_stream: Callable[[Camera], Stream] = Source,
    host: HostClock | None = None,
) -> Probe:
    """Watch a camera, or read a video file, for some seconds from its first picture on.

    `say` is called with what goes on, for a person. Raises BadAddress, CameraLost where no picture
    came at all, or BadVideo.
    """
    if "://" not in url:
        return _probe_file(Path(url), seconds)
    place = address_of(url)
    camera = Camera(name=place, url=url, transport=transport)
    say(f"connecting to {place}")
    look = _Look(host or HostClock(), say)
    try:
        with open_stream(camera) as stream:
            look.opened(stream)
            look.watch(stream, seconds)
    except CameraLost as lost:
        if not look.samples:
            raise CameraLost(place, lost.reason + _learnt(authentication_of(url))) from None
        look.lost = lost.reason
    say(f"asking {place} which log-ins it offers")
    return replace(
        look.found(),
        authentication=authentication_of(url),
        scheme=url.partition("://")[0],
        transport=transport,
    )


class _Look:
    """What was seen of a camera so far; its samples, and all that is no picture."""

    def __init__(self, host: HostClock, say: Callable[[str], None]) -> None:
        self._host, self._say = host, say
        self._began = host.steady()
        self._time = StreamTime()
        self._data: float | None = None
        self._camera_time: float | None = None
        self._offsets: list[float] = []
        self._left_out, self._left_out_since = Counter[str](), Counter[str]()
        self.samples: list[Sample] = []
        self.lost: str | None = None

    def opened(self, stream: Stream) -> None:
        """Take that the camera answers."""
        self._opened = self._host.steady()
        self._stream = stream
        waited = self._opened - self._began
        self._say(f"connected after {waited:.1f} s ({stream.codec}): no picture yet")

    def watch(self, stream: Stream, seconds: float) -> None:
        """Look for some seconds from the first picture on; raise CameraLost where none comes."""
        for sight in stream.frames():
            self._data = sight.arrived if self._data is None else self._data
            if isinstance(sight, Frame):
                self._see(sight, seconds)
            else:
                self._miss(sight)
            if self.samples and sight.arrived - self.samples[0].arrived >= seconds:
                return

    def _see(self, frame: Frame, seconds: float) -> None:
        if not self.samples:
            waited = frame.arrived - self._began
            self._say(f"first picture after {waited:.1f} s: looking for {seconds:g} s")
        seen = self._time.place(frame.pts, frame.arrived, waited=frame.waited)
        self.samples.append(
            Sample(
                pts=frame.pts,
                arrived=frame.arrived,
                at=seen.at,
                is_timed=seen.is_timed,
                is_key=frame.picture.key_frame,
            )
        )
        if frame.camera_time is not None:
            self._camera_time = self._camera_time or frame.arrived
            if seen.is_timed:
                self._offsets.append(frame.camera_time - self._host.at(seen.at))

    def _miss(self, sight: NoPicture) -> None:
        reason = sight.reason if len(self._left_out) < _MOST_REASONS else "other reasons"
        if reason not in self._left_out:
            self._say(f"no picture: {reason}")
        self._left_out[reason] += 1
        self._left_out_since[reason] += bool(self.samples)
        waited = sight.arrived - self._began
        if not self.samples and waited > LONGEST_WAIT:
            told = f"it has sent no picture for {waited:.0f} s ({sight.reason}): check its settings"
            raise CameraLost("", told)

    def found(self) -> Probe:
        """Return what was seen; there is a picture."""
        arrivals, first = arrivals_of(self.samples), self.samples[0].arrived
        since = first if self._data is None else self._data
        return Probe(
            codec=self._stream.codec,
            size=_size(self._stream),
            seconds=self.samples[-1].arrived - first,
            pictures=len(self.samples),
            fps=arrivals.fps,
            keyframes=keyframes_of(self.samples, since),
            timestamps=timestamps_of(self.samples),
            camera_time=self._clock(since),
            left_out=tuple(
                LeftOut(reason=reason, count=count, since_first=self._left_out_since[reason])
                for reason, count in self._left_out.items()
            ),
            arrivals=arrivals,
            waits=self._waits(since),
            lost=self.lost,
        )

    def _clock(self, since: float) -> CameraTime:
        after = None if self._camera_time is None else max(0.0, self._camera_time - since)
        spread = max(self._offsets, default=0.0) - min(self._offsets, default=0.0)
        return CameraTime(clock=choose_clock(self._offsets), after=after, spread=spread)

    def _waits(self, since: float) -> Waits:
        keyframe = next((each.arrived for each in self.samples if each.is_key), None)
        return Waits(
            opened=self._opened - self._began,
            data=since - self._began,
            picture=self.samples[0].arrived - self._began,
            keyframe=None if keyframe is None else keyframe - self._began,
        )


def _probe_file(path: Path, seconds: float) -> Probe:
    with VideoFile(path) as video:
        samples = list(_recorded(video, seconds))
        timestamps = replace(timestamps_of(samples), rate=None)
        return Probe(
            codec=video.codec,
            size=_size(video),
            seconds=samples[-1].at - samples[0].at if samples else 0.0,
            pictures=len(samples),
            fps=recorded_rate(samples) or 1 / video.period,
            keyframes=keyframes_of(samples, 0.0),
            timestamps=timestamps,
            camera_time=CameraTime(
                clock=Clock(source=ClockSource.FILE, offset=0.0), after=None, spread=0.0
            ),
        )


def _recorded(video: VideoFile, seconds: float) -> Iterator[Sample]:
    timeline = FileTime(0.0, video.period)
    for number, frame in enumerate(video.frames()):
        at = timeline.place(frame.pts).at
        yield Sample(
            pts=frame.pts,
            arrived=number * video.period,
            at=at,
            is_timed=frame.pts is not None,
            is_key=frame.picture.key_frame,
        )
        if at >= seconds:
            return


def _size(stream: Stream | VideoFile) -> Size:
    return Size(
        sent_width=stream.width,
        sent_height=stream.height,
        rotation=stream.rotation,
        pixel_aspect=stream.pixel_aspect,
    )


def _learnt(found: Authentication) -> str:
    """Say what a camera that gave no picture answers all the same."""
    if found.answered is None:
        return "" if found.connected is None else " (it takes connections, and says nothing)"
    if found.offered:
        return f" (it answers, and offers to log in by {', '.join(found.offered)})"
    return " (it answers, and asks for no log-in)" if found.is_needed is False else " (it answers)"

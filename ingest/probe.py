"""Look at a camera or a video file for a few seconds and say what it sends."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ingest.address import address_of
from ingest.authentication import DIGEST_MD5, Authentication, authentication_of
from ingest.camera import Camera, Decode
from ingest.camera_clock import choose_clock
from ingest.errors import CameraLost
from ingest.file_time import FileTime
from ingest.frames import Frame, NoPicture, Stream
from ingest.host_clock import HostClock
from ingest.probe_result import CameraTime, LeftOut, Probe, Size, Waits
from ingest.source import Source
from ingest.stream_quality import (
    Sample,
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


def probe(
    url: str,
    *,
    transport: str = "tcp",
    seconds: float = SECONDS,
    redirects: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda _: None,
    see: Callable[[Frame], None] = lambda _: None,
    open_stream: Callable[[Camera], Stream] = Source,
    host: HostClock | None = None,
) -> Probe:
    """Watch a camera, or read a video file, for some seconds from its first picture on.

    `redirects` are the hosts that the camera may redirect to. `say` is called with what goes on,
    for a person, and `see` with each picture. Raises BadAddress, CameraLost where no picture came
    at all, or BadVideo.
    """
    if "://" not in url:
        return _probe_file(Path(url), seconds, see)
    place = address_of(url)
    camera = Camera(
        name=place,
        url=url,
        transport=transport,
        redirects=redirects,
        decode=Decode(frames="all"),
    )
    say(f"connecting to {place}")
    look = _Look(host or HostClock(), say, see)
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

    def __init__(
        self, host: HostClock, say: Callable[[str], None], show: Callable[[Frame], None]
    ) -> None:
        self._host, self._say, self._show = host, say, show
        self._began = host.steady()
        self._time = StreamTime()
        self._waits_for_keyframe: float | None = None
        self._reason: str | None = None
        self._camera_time: float | None = None
        self._offsets: list[float] = []
        self._left_out = Counter[str]()
        self.samples: list[Sample] = []
        self.lost: str | None = None

    def opened(self, stream: Stream) -> None:
        """Take that the camera answers."""
        self._opened = self._host.steady()
        self._say(f"connected after {self._opened - self._began:.1f} s: no picture yet")

    def watch(self, stream: Stream, seconds: float) -> None:
        """Look for some seconds from the first picture on; raise CameraLost where none comes."""
        for sight in stream.frames():
            if isinstance(sight, Frame):
                self._see(sight, seconds)
                self._show(sight)
                self._codec, self._size = stream.codec, _size(stream)
            elif isinstance(sight, NoPicture):
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
        if not self.samples:
            self._wait(sight)
            return
        reason = sight.reason
        reason = reason if len(self._left_out) < _MOST_REASONS else "other reasons"
        self._left_out[reason] += 1

    def _wait(self, sight: NoPicture) -> None:
        """Take that there is no picture yet; raise CameraLost where that lasts too long."""
        if sight.reason != self._reason:
            self._reason = sight.reason
            self._say(f"no picture yet: {sight.reason}")
        if "keyframe" in sight.reason and self._waits_for_keyframe is None:
            self._waits_for_keyframe = sight.arrived
        waited = sight.arrived - self._began
        if waited > LONGEST_WAIT:
            told = f"it has sent no picture for {waited:.0f} s ({sight.reason}): check its settings"
            raise CameraLost("", told)

    def found(self) -> Probe:
        """Return what was seen; there is a picture."""
        arrivals, first = arrivals_of(self.samples), self.samples[0].arrived
        since = first if self._waits_for_keyframe is None else self._waits_for_keyframe
        return Probe(
            codec=self._codec,
            size=self._size,
            seconds=self.samples[-1].arrived - first,
            pictures=len(self.samples),
            fps=arrivals.fps,
            keyframes=keyframes_of(self.samples, since),
            timestamps=timestamps_of(self.samples),
            camera_time=self._clock(first),
            left_out=tuple(
                LeftOut(reason=reason, count=count) for reason, count in self._left_out.items()
            ),
            arrivals=arrivals,
            waits=self._waits(first - since),
            lost=self.lost,
        )

    def _clock(self, since: float) -> CameraTime:
        after = None if self._camera_time is None else max(0.0, self._camera_time - since)
        spread = max(self._offsets, default=0.0) - min(self._offsets, default=0.0)
        return CameraTime(clock=choose_clock(self._offsets), after=after, spread=spread)

    def _waits(self, for_keyframe: float) -> Waits:
        keyframe = next((each.arrived for each in self.samples if each.is_key), None)
        return Waits(
            opened=self._opened - self._began,
            picture=self.samples[0].arrived - self._began,
            keyframe=None if keyframe is None else keyframe - self._began,
            for_keyframe=for_keyframe,
            reason=self._reason,
        )


def _probe_file(path: Path, seconds: float, see: Callable[[Frame], None]) -> Probe:
    with VideoFile(path) as video:
        samples = list(_recorded(video, seconds, see))
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


def _recorded(video: VideoFile, seconds: float, see: Callable[[Frame], None]) -> Iterator[Sample]:
    timeline = FileTime(0.0, video.period)
    frames = (sight for sight in video.frames() if isinstance(sight, Frame))
    for number, frame in enumerate(frames):
        at = timeline.place(frame.pts).at
        see(frame)
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
        offered = ", ".join(found.offered)
        return f" (it answers, and offers to log in by {offered}{_what_to_offer(found)})"
    return " (it answers, and asks for no log-in)" if found.is_needed is False else " (it answers)"


def _what_to_offer(found: Authentication) -> str:
    """Say what to change where the camera offers no log-in that can be used."""
    is_usable = not {"basic", *DIGEST_MD5}.isdisjoint(found.offered)
    return "" if is_usable else ", which cannot be used: let the camera offer digest with MD5"

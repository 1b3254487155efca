"""Measure for a few seconds what a camera or a video file sends."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ingest.address import address_of
from ingest.camera import Camera
from ingest.errors import CameraLost
from ingest.files.timeline import FileTime
from ingest.files.video_file import VideoFile
from ingest.frames import CameraStream, Frame, NoPicture
from ingest.live.source import CameraSource
from ingest.probe.result import CameraTime, OmittedPictures, PictureSize, ProbeResult, StartupWaits
from ingest.probe.stream_quality import (
    FrameSample,
    measure_arrivals,
    measure_keyframes,
    measure_timestamps,
    recorded_rate,
)
from ingest.rtsp.authentication import DIGEST_MD5, Authentication, query_authentication
from ingest.settings import DecodeSettings
from ingest.timing.camera_clock import choose_clock
from ingest.timing.host_clock import HostClock
from ingest.timing.stream_time import StreamTime
from storage.records.records import ClockSource, WindowClock

PROBE_SECONDS = 10.0
"""How long to watch from the first picture on."""
MAX_WAIT = 120.0
"""Seconds for which data may arrive without a picture."""
_MAX_REASONS = 8


def probe(
    url: str,
    *,
    transport: str = "tcp",
    seconds: float = PROBE_SECONDS,
    redirects: tuple[str, ...] = (),
    report: Callable[[str], None] = lambda _: None,
    on_frame: Callable[[Frame], None] = lambda _: None,
    open_stream: Callable[[Camera], CameraStream] = CameraSource,
    host: HostClock | None = None,
) -> ProbeResult:
    """Watch a camera, or read a video file, for some seconds from its first picture on.

    `redirects` are the hosts that the camera may redirect to. `report` is called with the progress,
    for a person, `on_frame` with each frame. Raises BadAddress, BadVideo, or CameraLost if no
    picture came.
    """
    if "://" not in url:
        return _probe_file(Path(url), seconds, on_frame)
    address = address_of(url)
    camera = Camera(
        name=address,
        url=url,
        transport=transport,
        redirects=redirects,
        decode=DecodeSettings(frames="all"),
    )
    report(f"connecting to {address}")
    camera_probe = _CameraProbe(host or HostClock(), report, on_frame)
    try:
        with open_stream(camera) as stream:
            camera_probe.record_opened(stream)
            camera_probe.watch(stream, seconds)
    except CameraLost as lost:
        if not camera_probe.samples:
            note = _answer_note(query_authentication(url))
            raise CameraLost(address, lost.reason + note) from None
        camera_probe.lost = lost.reason
    report(f"asking {address} which log-ins it offers")
    return replace(
        camera_probe.result(),
        authentication=query_authentication(url),
        scheme=url.partition("://")[0],
        transport=transport,
    )


class _CameraProbe:
    """The samples of a camera so far, and the reasons for missing pictures."""

    def __init__(
        self, host: HostClock, report: Callable[[str], None], on_frame: Callable[[Frame], None]
    ) -> None:
        self._host, self._report, self._on_frame = host, report, on_frame
        self._started_at = host.steady()
        self._time = StreamTime()
        self._waits_for_keyframe_since: float | None = None
        self._reason: str | None = None
        self._camera_time_at: float | None = None
        self._offsets: list[float] = []
        self._omitted = Counter[str]()
        self.samples: list[FrameSample] = []
        self.lost: str | None = None

    def record_opened(self, stream: CameraStream) -> None:
        """Record that the camera has answered."""
        self._opened_at = self._host.steady()
        self._report(f"connected after {self._opened_at - self._started_at:.1f} s: no picture yet")

    def watch(self, stream: CameraStream, duration: float) -> None:
        """Watch for some seconds from the first picture on; raise CameraLost if none comes."""
        for item in stream.frames():
            if isinstance(item, Frame):
                self._record_frame(item, duration)
                self._on_frame(item)
                self._codec, self._size = stream.codec, _picture_size(stream)
            elif isinstance(item, NoPicture):
                self._record_missing(item)
            if self.samples and item.arrived - self.samples[0].arrived >= duration:
                return

    def _record_frame(self, frame: Frame, seconds: float) -> None:
        if not self.samples:
            waited = frame.arrived - self._started_at
            self._report(f"first picture after {waited:.1f} s: watching for {seconds:g} s")
        time = self._time.stamp(frame.pts, frame.arrived, waited=frame.waited)
        self.samples.append(
            FrameSample(
                pts=frame.pts,
                arrived=frame.arrived,
                at=time.at,
                is_timestamp_used=time.is_timestamp_used,
                is_keyframe=frame.picture.key_frame,
            )
        )
        if frame.camera_time is not None:
            self._camera_time_at = self._camera_time_at or frame.arrived
            if time.is_timestamp_used:
                self._offsets.append(frame.camera_time - self._host.at(time.at))

    def _record_missing(self, missing: NoPicture) -> None:
        if not self.samples:
            self._record_wait(missing)
            return
        reason = missing.reason
        reason = reason if len(self._omitted) < _MAX_REASONS else "other reasons"
        self._omitted[reason] += 1

    def _record_wait(self, missing: NoPicture) -> None:
        """Record that there is no picture yet; raise CameraLost if that lasts too long."""
        if missing.reason != self._reason:
            self._reason = missing.reason
            self._report(f"no picture yet: {missing.reason}")
        if "keyframe" in missing.reason and self._waits_for_keyframe_since is None:
            self._waits_for_keyframe_since = missing.arrived
        waited = missing.arrived - self._started_at
        if waited > MAX_WAIT:
            reason = f"no picture for {waited:.0f} s ({missing.reason}): check its settings"
            raise CameraLost("", reason)

    def result(self) -> ProbeResult:
        """Return the result; needs one picture at least."""
        arrivals, first = measure_arrivals(self.samples), self.samples[0].arrived
        since = first if self._waits_for_keyframe_since is None else self._waits_for_keyframe_since
        return ProbeResult(
            codec=self._codec,
            size=self._size,
            seconds=self.samples[-1].arrived - first,
            pictures=len(self.samples),
            fps=arrivals.fps,
            keyframes=measure_keyframes(self.samples, since),
            timestamps=measure_timestamps(self.samples),
            camera_time=self._clock_result(first),
            left_out=tuple(
                OmittedPictures(reason=reason, count=count)
                for reason, count in self._omitted.items()
            ),
            arrivals=arrivals,
            waits=self._startup_waits(first - since),
            lost=self.lost,
        )

    def _clock_result(self, since: float) -> CameraTime:
        after = None if self._camera_time_at is None else max(0.0, self._camera_time_at - since)
        spread = max(self._offsets, default=0.0) - min(self._offsets, default=0.0)
        return CameraTime(clock=choose_clock(self._offsets), after=after, spread=spread)

    def _startup_waits(self, for_keyframe: float) -> StartupWaits:
        keyframe = next((each.arrived for each in self.samples if each.is_keyframe), None)
        return StartupWaits(
            opened=self._opened_at - self._started_at,
            picture=self.samples[0].arrived - self._started_at,
            keyframe=None if keyframe is None else keyframe - self._started_at,
            for_keyframe=for_keyframe,
            reason=self._reason,
        )


def _probe_file(path: Path, seconds: float, on_frame: Callable[[Frame], None]) -> ProbeResult:
    with VideoFile(path) as video:
        samples = list(_file_samples(video, seconds, on_frame))
        timestamps = replace(measure_timestamps(samples), rate=None)
        clock = WindowClock(source=ClockSource.FILE, offset=0.0)
        return ProbeResult(
            codec=video.codec,
            size=_picture_size(video),
            seconds=samples[-1].at - samples[0].at if samples else 0.0,
            pictures=len(samples),
            fps=recorded_rate(samples) or 1 / video.period,
            keyframes=measure_keyframes(samples, 0.0),
            timestamps=timestamps,
            camera_time=CameraTime(clock=clock, after=None, spread=0.0),
        )


def _file_samples(
    video: VideoFile, seconds: float, on_frame: Callable[[Frame], None]
) -> Iterator[FrameSample]:
    timeline = FileTime(0.0, video.period)
    frames = (item for item in video.frames() if isinstance(item, Frame))
    for number, frame in enumerate(frames):
        at = timeline.stamp(frame.pts).at
        on_frame(frame)
        yield FrameSample(
            pts=frame.pts,
            arrived=number * video.period,
            at=at,
            is_timestamp_used=frame.pts is not None,
            is_keyframe=frame.picture.key_frame,
        )
        if at >= seconds:
            return


def _picture_size(stream: CameraStream | VideoFile) -> PictureSize:
    return PictureSize(
        sent_width=stream.width,
        sent_height=stream.height,
        rotation=stream.rotation,
        pixel_aspect=stream.pixel_aspect,
    )


def _answer_note(authentication: Authentication) -> str:
    """Return what a camera without pictures answers about log-ins."""
    if authentication.connected is None:
        return ""
    if authentication.answered is None:
        return " (it accepts connections, but does not answer)"
    if not authentication.offered:
        needs_none = authentication.is_needed is False
        return " (it answers, and asks for no log-in)" if needs_none else " (it answers)"
    note = f"it answers, and offers to log in by {', '.join(authentication.offered)}"
    if {"basic", *DIGEST_MD5}.isdisjoint(authentication.offered):
        note += ", which is not supported: let the camera offer digest with MD5"
    return f" ({note})"

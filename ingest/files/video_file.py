"""Read a recorded video as fast as possible.

The text and the `filename` of PyAV's errors are never shown: they name FFmpeg's internals.
"""

import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import av
import av.error
from av.packet import Packet
from av.video.stream import VideoStream

from ingest.decoding.decoder import DecodedPicture, UnsuitableVideo, VideoDecoder, video_tracks
from ingest.errors import BadVideo
from ingest.files.boxes import is_unfinished
from ingest.files.timeline import MAX_PAUSE, FileTime
from ingest.frames import Frame, NoPicture

_NO_TIMESTAMPS = 0x0080  # AVFMT_NOTIMESTAMPS
_HAS_DISCONTINUITIES = 0x0200  # AVFMT_TS_DISCONT
_MIN_PERIOD, _MAX_PERIOD = 1 / 240, 60.0
_LATE_TRACK = "a track that starts in the middle of it was not read"
_MAX_REORDERED = 64
"""Packets after which a missing picture is lost: codecs delay 16 at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRate:
    """The frame rate of a file without timestamps, and whether it is a guess."""

    fps: float
    is_guess: bool


class VideoFile:
    """An open video file; use it in a `with` block.

    `framerate` is for raw streams, which have no timestamps. Raises BadVideo, here and in `frames`.
    """

    def __init__(self, path: Path, framerate: float | None = None) -> None:
        self._path = path
        self._size = max(1, _file_size(path))
        with self._translate_errors():
            self._container = av.open(
                f"file:{path}",
                options={"protocol_whitelist": "file"},
                metadata_errors="replace",
            )
        try:
            self._decoder = VideoDecoder(self._container)
            self._has_timestamps = not self._container.format.flags & _NO_TIMESTAMPS
            if framerate is not None and self._has_timestamps:
                raise UnsuitableVideo("it has timestamps: leave the frame rate out")
        except UnsuitableVideo as error:
            self._container.close()
            raise BadVideo(str(path), str(error)) from None
        self.codec, self.framerate = self._decoder.codec, self._framerate(framerate)
        self.period = self._period()
        self.width, self.height = self._decoder.width, self._decoder.height
        self.notes = list[str]()
        """Which parts of the file are not read, for a person."""
        if len(video_tracks(self._container)) > 1:
            self.notes.append("it has several video tracks: the first was read")
        self.progress = 0.0
        """The share of the file that is read, 0 to 1."""

    @property
    def rotation(self) -> int:
        """Return the clockwise turn that makes pictures upright, in degrees."""
        return self._decoder.rotation

    @property
    def pixel_aspect(self) -> float:
        """Return the width of a pixel divided by its height."""
        return self._decoder.pixel_aspect

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def start_pts(self) -> float | None:
        """Return the timestamp at which the file starts; None without timestamps."""
        start = self._container.start_time
        return None if start is None or not self._has_timestamps else start / av.time_base

    @property
    def stated_duration(self) -> float | None:
        """Return the file's stated length in seconds; None if that is not reliable."""
        duration, flags = self._container.duration, self._container.format.flags
        if duration is None or flags & (_NO_TIMESTAMPS | _HAS_DISCONTINUITIES):
            return None
        return duration / av.time_base

    def frames(self) -> Iterator[Frame | NoPicture]:
        """Yield the pictures in display order, and a NoPicture for each lost one."""
        lost, has_decoded = _LostPictures(), False
        for packet in self._packets():
            lost.record_packet(packet, self._has_timestamps)
            for each in self._decode(packet):
                has_decoded = True
                yield from lost.take_before(each.pts)
                pts = each.pts if self._has_timestamps else None
                yield Frame(
                    picture=each.picture,
                    pts=pts,
                    arrived=0.0,
                    waited=False,
                    pixel_aspect=each.pixel_aspect,
                )
            if not self._has_timestamps and self._decoder.omission_reason:
                yield from _no_pictures(1)
        if not has_decoded:
            reason = "no frame of it can be decoded: check that the file is complete"
            raise BadVideo(str(self._path), reason)
        yield from lost.remaining()

    def measure_duration(self) -> float:
        """Return the video's length in seconds; read all of it if no reliable length is stated."""
        if self.stated_duration is not None and self.stated_duration <= MAX_PAUSE:
            return self.stated_duration
        time, at = FileTime(0.0, self.period, self.start_pts), 0.0
        last: Packet[VideoStream] | None = None
        for packet in self._packets():
            if last is not None and last.size:
                at = time.stamp(self._pts(last), next_pts=self._pts(packet)).at
            last = packet
        return round(at + time.step, 3)

    def _framerate(self, given: float | None) -> FrameRate | None:
        if self._has_timestamps:
            return None
        known = given or self._decoder.stream.codec_context.framerate
        return FrameRate(fps=float(known or 1 / self._decoder.period), is_guess=not known)

    def _period(self) -> float:
        period = self._decoder.period if self.framerate is None else 1 / self.framerate.fps
        return min(max(period, _MIN_PERIOD), _MAX_PERIOD)

    def _pts(self, packet: "Packet[VideoStream]") -> float | None:
        timestamp = packet.pts if packet.dts is None else packet.dts
        if timestamp is None or not self._has_timestamps:
            return None
        return float(timestamp * packet.time_base)

    def _packets(self) -> "Iterator[Packet[VideoStream]]":
        """Yield the packets, up to where the file breaks off."""
        is_first = True
        try:
            for packet in self._known_packets():
                is_first = False
                if packet.pos is not None and packet.pos > 0:
                    self.progress = max(self.progress, min(1.0, packet.pos / self._size))
                yield packet
        except av.FFmpegError as error:
            reason = _reason(error, self._path)
            if is_first:
                raise BadVideo(str(self._path), reason) from None
            self.notes.append(f"{reason}; the part before that was read")

    def _known_packets(self) -> "Iterator[Packet[VideoStream]]":
        """Yield the packets; PyAV raises IndexError for one of a track that starts later."""
        is_done = False
        while not is_done:
            try:
                yield from self._container.demux(self._decoder.stream)
                is_done = True
            except IndexError:
                if _LATE_TRACK not in self.notes:
                    self.notes.append(_LATE_TRACK)

    def _decode(self, packet: "Packet[VideoStream]") -> list[DecodedPicture]:
        try:
            return self._decoder.decode(packet)
        except av.FFmpegError:
            return []

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            raise BadVideo(str(self._path), _reason(error, self._path)) from None


class _LostPictures:
    """The timestamps of packets whose pictures have not come; pictures come in order."""

    def __init__(self) -> None:
        self._waiting = deque[float]()
        self._lost_count = 0

    def record_packet(self, packet: "Packet[VideoStream]", has_timestamps: bool) -> None:
        """Record a packet that goes to the decoder."""
        if packet.size and packet.pts is not None and has_timestamps:
            self._waiting.append(float(packet.pts * packet.time_base))
        if len(self._waiting) > _MAX_REORDERED:
            self._waiting.popleft()
            self._lost_count += 1

    def take_before(self, pts: float | None) -> Iterator[NoPicture]:
        """Yield one for each picture before this timestamp that did not come."""
        if pts is None:
            return
        lost = sum(1 for each in self._waiting if each < pts - 1e-6) + self._lost_count
        self._waiting = deque(each for each in self._waiting if each > pts + 1e-6)
        self._lost_count = 0
        yield from _no_pictures(lost)

    def remaining(self) -> Iterator[NoPicture]:
        """Yield one for each picture that never came."""
        yield from _no_pictures(len(self._waiting) + self._lost_count)


def _no_pictures(count: int) -> Iterator[NoPicture]:
    for _ in range(count):
        yield NoPicture(arrived=0.0, reason="damaged video was skipped")


def duration_of(path: Path, framerate: float | None = None) -> float:
    """Return the video's length in seconds; raises BadVideo."""
    with VideoFile(path, framerate) as video:
        return video.measure_duration()


def _file_size(path: Path) -> int:
    """Return the size of a file; raise BadVideo for a pipe or the like, which could block."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        detail = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
        raise BadVideo(str(path), _UNREADABLE.format(detail=detail or "its name")) from None
    if not stat.S_ISREG(status.st_mode):
        what = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise BadVideo(str(path), f"it is {what}: name a file, written to its end")
    if not status.st_size:
        raise BadVideo(str(path), "it is empty: choose another file")
    return status.st_size


_UNREADABLE = "it cannot be read ({detail}): check the path"


def _reason(error: av.FFmpegError, path: Path) -> str:
    """Return what happened and what to do, without FFmpeg's text."""
    if isinstance(error, OSError):
        return _UNREADABLE.format(detail=os.strerror(error.errno) if error.errno else "")
    if is_unfinished(path):
        return (
            "the recorder did not finish this file, it has no index (moov): let the recorder stop"
            " by itself, or record as .mkv, .ts or fragmented .mp4; `untrunc` may repair this one"
        )
    return "it is not a video, or a damaged one: choose a video file"

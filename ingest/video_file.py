"""A recorded video, read as fast as it can be, and cut as if a camera had sent it.

The text and the `filename` of PyAV's errors are not shown: they name FFmpeg's own things.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Self

import av
from av.packet import Packet
from av.video.stream import VideoStream

from ingest.camera import Camera
from ingest.decoding import Decoder, Unsuitable
from ingest.errors import BadVideo
from ingest.file_time import FileTime
from ingest.frames import Frame
from ingest.pace import Pace
from ingest.pictures import StillSize, compressed
from ingest.windows import Shot, Shots
from storage.records import Clock, ClockSource, Window


class VideoFile:
    """An open video file; use it in a `with` block.

    Raises BadVideo, here and from `frames`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._told_plainly():
            self._container = av.open(
                f"file:{path}",
                options={"protocol_whitelist": "file"},
                metadata_errors="replace",
            )
        try:
            self._decoder = Decoder(self._container)
        except Unsuitable as why:
            self._container.close()
            raise BadVideo(str(path), str(why)) from None
        self.codec, self.period = self._decoder.codec, self._decoder.period
        self.width, self.height = self._decoder.width, self._decoder.height

    @property
    def rotation(self) -> int:
        """Return by how many degrees clockwise pictures are turned to be upright."""
        return self._decoder.rotation

    @property
    def pixel_aspect(self) -> float:
        """Return how many times as wide as high the pixels are."""
        return self._decoder.pixel_aspect

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(self) -> Iterator[Frame]:
        """Yield the frames in the order in which they are shown; damaged ones are left out."""
        decoded = False
        for packet in self._packets():
            with self._told_plainly():
                pictures = self._decoder.decode(packet)
            for each in pictures:
                decoded = True
                yield Frame(
                    picture=each.picture,
                    pts=each.pts,
                    arrived=0.0,
                    waited=False,
                    pixel_aspect=each.pixel_aspect,
                )
        if not decoded:
            reason = "no frame of it can be decoded: check that the file is whole"
            raise BadVideo(str(self._path), reason)

    def seconds(self) -> float:
        """Return how long the video is; without a stated duration this reads all of it."""
        if self._container.duration is not None:
            return self._container.duration / av.time_base
        return self.period * sum(1 for packet in self._packets() if packet.size)

    def _packets(self) -> "Iterator[Packet[VideoStream]]":
        with self._told_plainly():
            yield from self._container.demux(self._decoder.stream)

    @contextmanager
    def _told_plainly(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            raise BadVideo(str(self._path), _reason(error)) from None


def windows_of_file(camera: Camera, path: Path, start: datetime) -> Iterator[Window]:
    """Cut a recorded video as if this camera had sent it.

    `start` (aware) is the instant of the first frame. What is left over at a break and at the end
    makes a shorter window of 4, 8, ... stills. Raises BadVideo.
    """
    shots, after_gap, sizes = Shots(camera.stills_per_window), False, StillSize(camera)
    last_size: tuple[int, int] | None = None
    with VideoFile(path) as video:
        timeline, pace = FileTime(start.timestamp(), video.period), Pace(camera.fps)
        for frame in video.frames():
            seen = timeline.place(frame.pts)
            if seen.broke:
                yield from _windows(camera, shots.groups(), after_gap=after_gap)
                shots.drop()
                pace, after_gap = Pace(camera.fps), True
            if not pace.keeps(seen.at):
                continue
            size = sizes.of(frame.picture, frame.pixel_aspect)
            if last_size not in (None, size):
                yield from _windows(camera, shots.groups(), after_gap=after_gap)
                shots.drop()
                after_gap = True
            last_size = size
            full = shots.add(Shot(at=seen.at, jpeg=compressed(frame.picture, camera, size)))
            yield from _windows(camera, full, after_gap=after_gap)
            after_gap = after_gap and not full
    yield from _windows(camera, shots.groups(), after_gap=after_gap)


def _windows(camera: Camera, shots: Sequence[Shot], *, after_gap: bool) -> Iterator[Window]:
    if shots:
        stills = tuple(shot.still(0.0) for shot in shots)
        clock = Clock(source=ClockSource.FILE, offset=0.0)
        yield Window(camera=camera.name, stills=stills, clock=clock, after_gap=after_gap)


def duration_of(path: Path) -> float:
    """Return how many seconds the video lasts; raises BadVideo."""
    with VideoFile(path) as video:
        return video.seconds()


def _reason(error: av.FFmpegError) -> str:
    """Say in our own words what happened and what to do."""
    detail = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
    if isinstance(error, OSError):
        return f"it cannot be read ({detail}): check the path"
    return "it is not a video, or a damaged one: choose a video file"

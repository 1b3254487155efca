"""A recorded video, cut as if a camera had sent it."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from ingest.camera import Camera
from ingest.files.coverage import FileCoverage
from ingest.files.cutter import VideoCutter
from ingest.files.video_file import FrameRate, VideoFile
from storage.records.records import Window


class VideoWindows:
    """The windows of a recorded video, as if this camera had sent it: iterate once.

    `start` (aware) is the instant at which the file begins. What is left over at a break and at
    the end makes a shorter window of 4, 8, ... stills. `coverage` says, at the end, what was
    looked at. Raises BadVideo, here and when iterated.
    """

    def __init__(
        self, camera: Camera, path: Path, start: datetime, framerate: float | None = None
    ) -> None:
        self._video = VideoFile(path, framerate)
        self._cutter = VideoCutter(camera, start, self._video.period, self._video.start_pts)

    def __iter__(self) -> Iterator[Window]:
        return self.read(lambda _: None)

    def read(self, on_progress: Callable[[float], None]) -> Iterator[Window]:
        """Yield the windows; `progress` is told how much of the file is read, from 0 to 1."""
        with self._video as video:
            for item in video.frames():
                on_progress(video.progress)
                yield from self._cutter.add(item)
            yield from self._cutter.close(video.stated_duration)

    @property
    def progress(self) -> float:
        """How much of the file is read, from 0 to 1."""
        return self._video.progress

    @property
    def framerate(self) -> FrameRate | None:
        """The frame rate that a file without timestamps is read at."""
        return self._video.framerate

    @property
    def notes(self) -> Sequence[str]:
        """What of the file is not read, in words."""
        return self._video.notes

    @property
    def coverage(self) -> FileCoverage:
        """What was looked at so far."""
        return self._cutter.coverage


def windows_of_file(
    camera: Camera, path: Path, start: datetime, framerate: float | None = None
) -> VideoWindows:
    """Cut a recorded video as if this camera had sent it; raises BadVideo."""
    return VideoWindows(camera, path, start, framerate)

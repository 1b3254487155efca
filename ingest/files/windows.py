"""Cut a recorded video as if a camera had sent it."""

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

    `start` (aware) is the instant at which the file starts. The rest at a break and at the end
    becomes a shorter window of 4, 8, ... stills. `coverage` is complete at the end. Raises
    BadVideo, here and when iterated.
    """

    def __init__(
        self, camera: Camera, path: Path, start: datetime, framerate: float | None = None
    ) -> None:
        self._video = VideoFile(path, framerate)
        self._cutter = VideoCutter(camera, start, self._video.period, self._video.start_pts)

    def __iter__(self) -> Iterator[Window]:
        return self.read(lambda _: None)

    def read(self, on_progress: Callable[[float], None]) -> Iterator[Window]:
        """Yield the windows; `on_progress` receives the share of the file that is read, 0 to 1."""
        with self._video as video:
            for item in video.frames():
                on_progress(video.progress)
                yield from self._cutter.add(item)
            yield from self._cutter.close(video.stated_duration)

    @property
    def progress(self) -> float:
        """Return the share of the file that is read, 0 to 1."""
        return self._video.progress

    @property
    def framerate(self) -> FrameRate | None:
        """Return the frame rate of a file without timestamps."""
        return self._video.framerate

    @property
    def notes(self) -> Sequence[str]:
        """Return which parts of the file are not read, for a person."""
        return self._video.notes

    @property
    def coverage(self) -> FileCoverage:
        """Return which parts were watched so far."""
        return self._cutter.coverage

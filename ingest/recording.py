"""Cut a recorded video into windows, and account for every second of it.

A recording is read once and nothing of it comes again, so that more is made of it than of a live
stream: where it pauses or ends within a group of four stills, the group is made of pictures that
lie closer together. What cannot be looked at is told, with the reason.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

from ingest.camera import Camera
from ingest.file_coverage import FileCoverage, Skipped, SkipReason
from ingest.file_time import JUMP, LONGEST_PAUSE, Break, FileTime
from ingest.frames import Frame, NoPicture
from ingest.pace import Pace
from ingest.pictures import StillSize, compressed
from ingest.windows import GROUP, Shot, instant
from storage.records import Clock, ClockSource, Window

_HOLE = 1.0
"""Seconds of damaged video that are no hole."""
_TELLABLE = 0.05
_ROUNDED = 0.5
"""Seconds: what a file states of its beginning and its end is no more exact."""


class _Spare:
    """Some frames of the group in hand, evenly apart, and the last one."""

    _MOST = 2 * GROUP

    def __init__(self) -> None:
        self._frames: list[tuple[float, Frame]] = []
        self._last: list[tuple[float, Frame]] = []
        self._stride, self._count = 1, 0

    def add(self, at: float, frame: Frame) -> None:
        """Take the next frame; every other one is dropped where they become too many."""
        is_kept = self._count % self._stride == 0
        if is_kept:
            self._frames.append((at, frame))
        self._last = [] if is_kept else [(at, frame)]
        self._count += 1
        if len(self._frames) > self._MOST:
            self._frames, self._stride = self._frames[::2], 2 * self._stride

    def group(self) -> Sequence[tuple[float, Frame]]:
        """Return four frames, about evenly apart, or none where there are fewer."""
        frames = self._frames + self._last
        steps = (len(frames) - 1) / (GROUP - 1)
        return [frames[round(nth * steps)] for nth in range(GROUP)] if steps >= 1 else ()


class Recording:
    """Take what a file gives, and cut windows of it; `begins` is the timestamp of its start."""

    def __init__(
        self, camera: Camera, start: datetime, period: float, begins: float | None = None
    ) -> None:
        self._camera = camera
        self._start = start.timestamp()
        self._time = FileTime(self._start, period, begins)
        self._held: Frame | None = None
        self._missed, self._missed_before_held = 0, 0
        self._last: float | None = None
        self._end = self._start
        self._shots: list[Shot] = []
        self._sizes, self._size = StillSize(camera), (0, 0)
        self._after_gap = False
        self._skipped: list[Skipped] = []
        self._joins = 0

    def see(self, sight: Frame | NoPicture) -> Iterator[Window]:
        """Take what comes; yield the windows that it completes."""
        if isinstance(sight, NoPicture):
            self._missed += 1
            return
        yield from self._release(sight.pts)
        self._held, self._missed_before_held, self._missed = sight, self._missed, 0

    def close(self, seconds: float | None) -> Iterator[Window]:
        """End the recording, which states that it is so long, if anything; yield what is left."""
        yield from self._release(None)
        yield from self._cut()
        end = self._end + self._missed * self._time.step
        stated = self._start + (seconds or 0.0)
        if not self._joins and stated - end <= LONGEST_PAUSE:
            end = max(end, stated)
        self._skip(self._end, end, self._missed, SkipReason.NO_PICTURE)
        self._end = end

    @property
    def coverage(self) -> FileCoverage:
        """Return what was looked at so far."""
        return FileCoverage(
            start=instant(self._start),
            end=instant(self._end),
            skipped=tuple(self._skipped),
            joins=self._joins,
        )

    def _release(self, following: float | None) -> Iterator[Window]:
        """Place the frame in hand, now that the timestamp of the next one is known."""
        if self._held is None:
            return
        held, missed = self._held, self._missed_before_held
        placed = self._time.place(held.pts, following=following, missed=missed)
        self._held = None
        if self._last is None:
            self._begin(placed.at, missed, SkipReason.NO_PICTURE)
        elif placed.broke or (missed and placed.at - self._last > self._longest_hole):
            yield from self._cut()
            self._joins += placed.broke is Break.JOIN
            self._begin(placed.at, missed, SkipReason.PAUSE)
        yield from self._keep(placed.at, held)
        self._last, self._end = placed.at, placed.at + self._time.step

    @property
    def _longest_hole(self) -> float:
        return max(_HOLE, 2 / self._camera.fps)

    def _begin(self, at: float, missed: int, reason: SkipReason) -> None:
        """Begin a stretch of pictures; before it there were none for a while."""
        self._skip(self._end, at, missed, reason)
        self._pace = Pace(self._camera.fps)
        self._spare = _Spare()

    def _keep(self, at: float, frame: Frame) -> Iterator[Window]:
        is_still = self._pace.keeps(at)
        if is_still:
            size = self._sizes.of(frame.picture, frame.pixel_aspect)
            if self._last is not None and size != self._size:
                yield from self._cut()
            self._size = size
        if is_still and len(self._shots) % GROUP == 0:
            self._spare = _Spare()
        self._spare.add(at, frame)
        if is_still:
            self._shots.append(self._shot(at, frame))
        if len(self._shots) == self._camera.stills_per_window:
            yield self._window()

    def _cut(self) -> Iterator[Window]:
        """End the stretch: a group that is not whole is made of frames closer together."""
        whole = len(self._shots) // GROUP * GROUP
        rest = self._shots[whole:]
        if rest:
            self._shots[whole:] = [self._shot(*each) for each in self._spare.group()]
            if len(self._shots) == whole:
                self._tell(rest[0].at, self._end, SkipReason.TOO_SHORT)
        if self._shots:
            yield self._window()
        self._after_gap = True

    def _shot(self, at: float, frame: Frame) -> Shot:
        return Shot(at=at, jpeg=compressed(frame.picture, self._camera, self._size))

    def _window(self) -> Window:
        window = Window(
            camera=self._camera.name,
            stills=tuple(shot.still(0.0) for shot in self._shots),
            clock=Clock(source=ClockSource.FILE, offset=0.0),
            after_gap=self._after_gap,
        )
        self._shots, self._after_gap = [], False
        return window

    def _skip(self, start: float, end: float, missed: int, reason: SkipReason) -> None:
        """Tell a time without pictures: so many are lost of it, and for the rest a reason."""
        damaged = min(start + missed * self._time.step, end)
        if missed and end - damaged < JUMP:
            damaged = end
        self._tell(start, damaged, SkipReason.DAMAGED)
        self._tell(damaged, end, reason)

    def _tell(self, start: float, end: float, reason: SkipReason) -> None:
        least = _ROUNDED if reason is SkipReason.NO_PICTURE else _TELLABLE
        if end - start > least:
            self._skipped.append(Skipped(start=instant(start), end=instant(end), reason=reason))

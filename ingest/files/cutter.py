"""Cut a recorded video into windows, and account for every second of it.

If the recording pauses or ends within a group of four stills, the group is completed with pictures
that are closer together. Parts that cannot be watched are reported with the reason.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

from ingest.camera import Camera
from ingest.files.coverage import FileCoverage, SkippedSpan, SkipReason
from ingest.files.timeline import MAX_BACK_STEP, MAX_PAUSE, FileTime, TimeBreak
from ingest.frames import Frame, NoPicture
from ingest.pictures.stills import StillSize, encode_still
from ingest.timing.sampler import FrameSampler
from ingest.windows import GROUP_SIZE, Shot, instant
from storage.records.records import ClockSource, Window, WindowClock

_MIN_GAP = 1.0
"""Seconds of damaged video that do not end a window."""
_MIN_SKIPPED = 0.05
_STATED_ROUNDING = 0.5
"""Seconds: a file states its start and end no more exactly."""


class _SpareFrames:
    """Some evenly spaced frames of the current group, and the last one."""

    _MAX_FRAMES = 2 * GROUP_SIZE

    def __init__(self) -> None:
        self._frames: list[tuple[float, Frame]] = []
        self._last: list[tuple[float, Frame]] = []
        self._stride, self._count = 1, 0

    def add(self, at: float, frame: Frame) -> None:
        """Add the next frame; drop every other frame if there are too many."""
        is_kept = self._count % self._stride == 0
        if is_kept:
            self._frames.append((at, frame))
        self._last = [] if is_kept else [(at, frame)]
        self._count += 1
        if len(self._frames) > self._MAX_FRAMES:
            self._frames, self._stride = self._frames[::2], 2 * self._stride

    def group(self) -> Sequence[tuple[float, Frame]]:
        """Return four frames, about evenly spaced, or none if there are fewer."""
        frames = self._frames + self._last
        steps = (len(frames) - 1) / (GROUP_SIZE - 1)
        return [frames[round(nth * steps)] for nth in range(GROUP_SIZE)] if steps >= 1 else ()


class VideoCutter:
    """Cut the frames of a file into windows; `start_pts` is the timestamp of its start."""

    def __init__(
        self, camera: Camera, start: datetime, period: float, start_pts: float | None = None
    ) -> None:
        self._camera = camera
        self._start = start.timestamp()
        self._time = FileTime(self._start, period, start_pts)
        self._pending: Frame | None = None
        self._missed, self._missed_before_pending = 0, 0
        self._last_at: float | None = None
        self._end = self._start
        self._shots: list[Shot] = []
        self._sizer, self._size = StillSize(camera), (0, 0)
        self._after_gap = False
        self._skipped: list[SkippedSpan] = []
        self._joins = 0

    def add(self, item: Frame | NoPicture) -> Iterator[Window]:
        """Add an item; yield the windows that it completes."""
        if isinstance(item, NoPicture):
            self._missed += 1
            return
        yield from self._flush_pending(item.pts)
        self._pending, self._missed_before_pending, self._missed = item, self._missed, 0

    def close(self, stated_duration: float | None) -> Iterator[Window]:
        """End the recording, with the length in seconds that it states; yield what is left."""
        yield from self._flush_pending(None)
        yield from self._end_stretch()
        end = self._end + self._missed * self._time.step
        stated = self._start + (stated_duration or 0.0)
        if not self._joins and stated - end <= MAX_PAUSE:
            end = max(end, stated)
        self._skip_span(self._end, end, self._missed, SkipReason.NO_PICTURE)
        self._end = end

    @property
    def coverage(self) -> FileCoverage:
        """Return which parts were watched so far."""
        return FileCoverage(
            start=instant(self._start),
            end=instant(self._end),
            skipped=tuple(self._skipped),
            joins=self._joins,
        )

    def _flush_pending(self, next_pts: float | None) -> Iterator[Window]:
        """Stamp the pending frame, now that the timestamp of the next one is known."""
        if self._pending is None:
            return
        pending, missed = self._pending, self._missed_before_pending
        time = self._time.stamp(pending.pts, next_pts=next_pts, missed=missed)
        self._pending = None
        if self._last_at is None:
            self._start_stretch(time.at, missed, SkipReason.NO_PICTURE)
        elif time.time_break or (missed and time.at - self._last_at > self._max_gap):
            yield from self._end_stretch()
            self._joins += time.time_break is TimeBreak.JOIN
            self._start_stretch(time.at, missed, SkipReason.PAUSE)
        yield from self._add_frame(time.at, pending)
        self._last_at, self._end = time.at, time.at + self._time.step

    @property
    def _max_gap(self) -> float:
        return max(_MIN_GAP, 2 / self._camera.fps)

    def _start_stretch(self, at: float, missed: int, reason: SkipReason) -> None:
        """Start a stretch of pictures after a time without any."""
        self._skip_span(self._end, at, missed, reason)
        self._sampler = FrameSampler(self._camera.fps)
        self._spare = _SpareFrames()

    def _add_frame(self, at: float, frame: Frame) -> Iterator[Window]:
        is_still = self._sampler.take(at)
        if is_still:
            size = self._sizer.update(frame.picture, frame.pixel_aspect)
            if self._last_at is not None and size != self._size:
                yield from self._end_stretch()
            self._size = size
        if is_still and len(self._shots) % GROUP_SIZE == 0:
            self._spare = _SpareFrames()
        self._spare.add(at, frame)
        if is_still:
            self._shots.append(self._build_shot(at, frame))
        if len(self._shots) == self._camera.stills_per_window:
            yield self._build_window()

    def _end_stretch(self) -> Iterator[Window]:
        """End the stretch; complete the last group with frames that are closer together."""
        whole = len(self._shots) // GROUP_SIZE * GROUP_SIZE
        rest = self._shots[whole:]
        if rest:
            self._shots[whole:] = [self._build_shot(*each) for each in self._spare.group()]
            if len(self._shots) == whole:
                self._record_skipped(rest[0].at, self._end, SkipReason.TOO_SHORT)
        if self._shots:
            yield self._build_window()
        self._after_gap = True

    def _build_shot(self, at: float, frame: Frame) -> Shot:
        return Shot(at=at, jpeg=encode_still(frame.picture, self._camera, self._size))

    def _build_window(self) -> Window:
        window = Window(
            camera=self._camera.name,
            stills=tuple(shot.still(0.0) for shot in self._shots),
            clock=WindowClock(source=ClockSource.FILE, offset=0.0),
            after_gap=self._after_gap,
        )
        self._shots, self._after_gap = [], False
        return window

    def _skip_span(self, start: float, end: float, missed: int, reason: SkipReason) -> None:
        """Record a time without pictures: `missed` are damaged, the rest has a reason."""
        damaged_until = min(start + missed * self._time.step, end)
        if missed and end - damaged_until < MAX_BACK_STEP:
            damaged_until = end
        self._record_skipped(start, damaged_until, SkipReason.DAMAGED)
        self._record_skipped(damaged_until, end, reason)

    def _record_skipped(self, start: float, end: float, reason: SkipReason) -> None:
        min_seconds = _STATED_ROUNDING if reason is SkipReason.NO_PICTURE else _MIN_SKIPPED
        if end - start > min_seconds:
            self._skipped.append(SkippedSpan(start=instant(start), end=instant(end), reason=reason))

"""Recordings of every kind of timestamps: nothing is looked at twice, and nothing is silent."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random

import av
import numpy as np
import pytest

from ingest.camera import Camera
from ingest.files.coverage import FileCoverage
from ingest.files.cutter import VideoCutter
from ingest.frames import Frame, NoPicture
from storage.records.records import Window

START = datetime(2026, 1, 1, tzinfo=UTC)
PICTURE = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
CAMERA = Camera(name="dock", url="rtsp://dock/sub", fps=1.0, stills_per_window=8)
PERIOD = 0.2
LOST = NoPicture(arrived=0.0, reason="damaged video was skipped")


def a_frame(pts: float | None) -> Frame:
    return Frame(picture=PICTURE, pts=pts, arrived=0.0, waited=False)


def some_sights(random: Random) -> list[Frame | NoPicture]:
    """Return pictures with pauses, joins, damage, odd, equal and missing timestamps."""
    at, sights = random.uniform(-1e4, 1e4), list[Frame | NoPicture]()
    for _ in range(random.randrange(1, 8)):
        for _ in range(random.randrange(1, 80)):
            at += random.choice((PERIOD, PERIOD, PERIOD, 0.0, 2 * PERIOD))
            what = random.random()
            if what < 0.04:
                sights += [LOST] * random.randrange(1, 9)
            odd = random.uniform(-1e5, 1e5) if what > 0.98 else at
            sights.append(a_frame(None if 0.96 < what <= 0.98 else odd))
        step = random.choice((7.0, 3000.0, -50.0, 1e5, 3.0))
        sights += [LOST] * (random.randrange(40) if step == 7.0 else 0)
        at += step
    return sights


def looked_at(sights: list[Frame | NoPicture]) -> tuple[list[Window], FileCoverage]:
    recording = VideoCutter(CAMERA, START, PERIOD)
    windows = [window for sight in sights for window in recording.add(sight)]
    windows += recording.close(None)
    return windows, recording.coverage


@pytest.mark.parametrize("seed", range(60))
def test_every_second_is_in_a_window_or_is_told(seed: int) -> None:
    windows, coverage = looked_at(some_sights(Random(seed)))
    stills = [still.at for window in windows for still in window.stills]
    assert all(before < after for before, after in pairwise(stills))
    assert all(len(window.stills) in (4, 8) for window in windows)
    parts = [(part.start, part.end) for part in coverage.skipped]
    assert all(end <= start for (_, end), (start, _) in pairwise(parts))
    assert not [at for at in stills for start, end in parts if start < at < end]
    seen = [(window.start, window.end) for window in windows]
    marks = sorted([*parts, *seen, (coverage.start, coverage.start), (coverage.end, coverage.end)])
    silent = [start - end for (_, end), (start, _) in pairwise(marks)]
    assert max(silent) < timedelta(seconds=2.1)
    assert all(
        window.after_gap or not index
        for index, window in enumerate(windows)
        if is_cut(index, windows, parts)
    )


def is_cut(index: int, windows: list[Window], parts: list[tuple[datetime, datetime]]) -> bool:
    """Return whether a long part was skipped just before a window."""
    before = windows[index - 1].end if index else START
    return any(
        before <= start and end <= windows[index].start and end - start > timedelta(seconds=4)
        for start, end in parts
    )


def test_a_pause_behind_a_damaged_end_is_no_damage() -> None:
    first = [a_frame(nth * PERIOD) for nth in range(20)]
    second = [a_frame(604 + nth * PERIOD) for nth in range(20)]
    _, coverage = looked_at([*first, *[LOST] * 15, *second])
    told = [(str(part.reason), part.seconds) for part in coverage.skipped]
    assert told == [("damaged", pytest.approx(3.0)), ("pause", pytest.approx(597.0))]


def test_lost_pictures_of_a_raw_stream_take_their_time() -> None:
    frames = [a_frame(None) for _ in range(20)]
    windows, coverage = looked_at([*frames, *[LOST] * 20, *frames])
    assert [(str(part.reason), part.seconds) for part in coverage.skipped] == [("damaged", 4.0)]
    assert (coverage.seconds, len(windows)) == (12.0, 2)
    assert windows[1].after_gap


def test_nothing_but_damage_is_told() -> None:
    windows, coverage = looked_at([a_frame(0.0), *[LOST] * 50])
    assert windows == []
    assert coverage.watched_seconds == 0
    assert [str(part.reason) for part in coverage.skipped] == ["too_short", "damaged"]

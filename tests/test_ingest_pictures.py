"""Stills are upright, with square pixels and of one size, whatever a camera sends."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import chain, pairwise, repeat
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ingest.camera import Camera
from ingest.errors import BadVideo
from ingest.files.video_file import VideoFile
from ingest.files.windows import VideoWindows
from ingest.frames import Frame
from ingest.pictures.display_matrix import rotation_of
from ingest.pictures.masks import hidden_pixels
from ingest.pictures.outlines import Outline
from ingest.pictures.scene import SceneHealth
from ingest.pictures.stills import (
    STEADY_WINDOWS,
    ScaledPicture,
    StillSize,
    encode_still,
    still_from_frame,
)
from ingest.recording.recorder import Recorder
from ingest.timing.host_clock import HostClock
from kit.ingest.coded_video import open_video
from storage.log.memory_log import MemoryLog
from storage.records.records import CoverageState, Still, Window
from storage.records.topics import WINDOWS
from storage.records.wire import decode_window, encode_window

CAMERA = Camera(name="dock", url="rtsp://127.0.0.1/cam", fps=1.0, stills_per_window=8)
START = datetime(2026, 1, 1, tzinfo=UTC)
RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (240, 240, 240)


def corners(width: int, height: int) -> NDArray[np.uint8]:
    """Return a picture with a colour in each corner: red, green / blue, white."""
    picture = np.zeros((height, width, 3), np.uint8)
    up, left = height // 2, width // 2
    picture[:up, :left], picture[:up, left:] = RED, GREEN
    picture[up:, :left], picture[up:, left:] = BLUE, WHITE
    return picture


PLACES = [(24, 40), (24, 120), (72, 40), (72, 120)]
"""Rows and columns in the corners of a picture of 160 x 96."""


def colours(still: Still) -> list[tuple[int, int, int]]:
    """Return the nearest of the four colours in each corner, as in `corners`."""
    with Image.open(BytesIO(still.jpeg)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    high, wide = pixels.shape[0] // 4, pixels.shape[1] // 4
    places = (pixels[y, x] for y in (high, -high) for x in (wide, -wide))
    known = (RED, GREEN, BLUE, WHITE)
    return [min(known, key=lambda c: int(abs(place - c).sum())) for place in places]


def recorded(
    path: Path, *, degrees: float = 0.0, mirrored: bool = False, aspect: str = ""
) -> list[Still]:
    """Record the corners with a display matrix and an aspect of the pixels; return the stills."""
    options = {"aspect": aspect} if aspect else {}
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        if degrees or mirrored:
            stream.set_display_rotation(degrees, hflip=mirrored)
        for _ in range(40):
            picture = VideoFrame.from_ndarray(corners(160, 96), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    (window,) = VideoWindows(CAMERA, path, START)
    return list(window.stills)


@pytest.mark.parametrize(
    ("counterclockwise", "size", "seen"),
    [
        (0, (160, 96), [RED, GREEN, BLUE, WHITE]),
        (90, (96, 160), [GREEN, WHITE, RED, BLUE]),
        (180, (160, 96), [WHITE, BLUE, GREEN, RED]),
        (-90, (96, 160), [BLUE, RED, WHITE, GREEN]),
    ],
)
def test_a_turned_recording_is_upright(
    counterclockwise: int, size: tuple[int, int], seen: list[object], tmp_path: Path
) -> None:
    stills = recorded(tmp_path / "a.mp4", degrees=counterclockwise)
    for still in stills:
        assert (still.width, still.height) == size
        assert Image.open(BytesIO(still.jpeg)).size == size
        assert colours(still) == seen
    with VideoFile(tmp_path / "a.mp4") as video:
        next(video.frames())
        assert video.rotation == -counterclockwise % 360


def test_a_mirrored_recording_is_as_it_was_meant(tmp_path: Path) -> None:
    stills = recorded(tmp_path / "a.mp4", mirrored=True)
    assert colours(stills[0]) == [GREEN, RED, WHITE, BLUE]


@pytest.mark.parametrize(
    ("aspect", "name", "size"),
    [
        ("2:1", "a.mp4", (320, 96)),
        ("2:1", "a.h264", (320, 96)),
        ("16:15", "a.ts", (171, 96)),
        ("1:2", "a.mp4", (80, 96)),
        ("1:200", "a.h264", (160, 96)),
    ],
)
def test_pixels_become_square(
    aspect: str, name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    stills = recorded(tmp_path / name, aspect=aspect)
    assert {(still.width, still.height) for still in stills} == {size}
    wide, high = (int(part) for part in aspect.split(":"))
    with VideoFile(tmp_path / name) as video:
        next(video.frames())
        assert video.pixel_aspect == pytest.approx(1.0 if high == 200 else wide / high)


def test_turned_and_squeezed_together(tmp_path: Path) -> None:
    (still, *_) = recorded(tmp_path / "a.mp4", degrees=90, aspect="2:1")
    assert (still.width, still.height) == (96, 320)
    assert colours(still) == [GREEN, WHITE, RED, BLUE]


def test_jpegs_that_say_how_they_are_held_are_upright() -> None:
    """EXIF has a kind of side data that PyAV does not know and raises ValueError for."""
    image, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(corners(160, 96)).save(image, "JPEG", exif=exif)
    with open_video(BytesIO(image.getvalue() * 2), format="mjpeg") as container:
        picture = next(container.decode(video=0))
    assert rotation_of(picture) == 90
    jpeg = encode_still(picture, CAMERA, StillSize(CAMERA).update(picture, 1.0))
    still = Still(at=START, jpeg=jpeg.data, width=jpeg.width, height=jpeg.height)
    assert (jpeg.width, jpeg.height) == (96, 160)
    assert colours(still) == [BLUE, RED, WHITE, GREEN]


def test_a_title_that_is_no_utf_8_is_no_matter(tmp_path: Path) -> None:
    """A camera's own name for its stream, in GBK or Latin-1, ended the process."""
    recorded(tmp_path / "a.mp4")
    video = (tmp_path / "a.mp4").read_bytes()
    assert b"Lavf" in video
    (tmp_path / "b.mp4").write_bytes(video.replace(b"Lavf", b"\xb2\xd6\xbf\xe2"))
    assert list(VideoWindows(CAMERA, tmp_path / "b.mp4", START))


def test_a_codec_that_nobody_knows_is_refused_in_one_line(tmp_path: Path) -> None:
    recorded(tmp_path / "a.mp4")
    video = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(video.replace(b"avc1", b"xyz1"))
    with pytest.raises(BadVideo, match="set the camera to"):
        list(VideoWindows(CAMERA, tmp_path / "b.mp4", START))


def picture_of(width: int, height: int) -> VideoFrame:
    return VideoFrame.from_ndarray(corners(width, height), format="rgb24")


LARGE, SMALL = (640, 360), (352, 288)


def kept(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the sizes of the stills of pictures of these sizes."""
    still_size = StillSize(CAMERA)
    pictures = {size: picture_of(*size) for size in set(sizes)}
    return [still_size.update(pictures[size], 1.0) for size in sizes]


def test_a_size_that_changes_once_is_followed_at_once() -> None:
    assert kept([*repeat(LARGE, 5), *repeat(SMALL, 40)]) == [LARGE] * 5 + [SMALL] * 40


def test_a_size_that_flaps_is_kept_and_the_last_one_followed_once_it_lasts() -> None:
    flapping = [*repeat(LARGE, 30), *chain(*repeat([SMALL] * 6 + [LARGE] * 6, 5))]
    steady = STEADY_WINDOWS * CAMERA.stills_per_window
    sizes = kept([*flapping, *repeat(LARGE, 2 * steady)])
    assert sizes[: len(flapping)] == [LARGE] * 30 + [SMALL] * 60
    assert sizes[-1] == LARGE
    assert sum(one != other for one, other in pairwise(sizes)) == 2


class Host:
    """A clock of the test."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def watched(sizes: Sequence[tuple[int, int]], camera: Camera = CAMERA) -> list[Window]:
    """Return the windows of a camera whose pictures have these sizes, one a second."""
    log, clock = MemoryLog(), Host()
    recorder = Recorder(camera, log, HostClock(wall=clock, steady=clock))
    for second, size in enumerate(sizes):
        clock.now += 1.0
        recorder.record(
            Frame(picture=picture_of(*size), pts=float(second), arrived=clock.now, waited=True)
        )
        recorder.tick()
    recorder.close()
    return [decode_window(entry.value) for entry in log.read(WINDOWS, 0)]


def sizes_of(window: Window) -> set[tuple[int, int]]:
    return {Image.open(BytesIO(still.jpeg)).size for still in window.stills}


def test_windows_go_on_where_the_size_changes_every_six_seconds() -> None:
    """A camera's filter at dusk: before, no window came as long as it flapped."""
    windows = watched([*chain(*repeat([LARGE] * 6 + [SMALL] * 6, 8))])
    assert [len(sizes_of(window)) for window in windows] == [1] * len(windows)
    assert sum(len(window.stills) for window in windows) >= 96 - 4
    assert [window.after_gap for window in windows[:3]] == [True, True, False]
    assert not any(window.after_gap for window in windows[2:])


def test_a_window_is_cut_where_the_size_changes() -> None:
    windows = watched([LARGE] * 14 + [SMALL] * 16)
    assert [len(window.stills) for window in windows] == [8, 4, 8, 8]
    assert [sizes_of(window) for window in windows] == [{LARGE}, {LARGE}, {SMALL}, {SMALL}]
    assert [window.after_gap for window in windows] == [True, False, True, False]


HOSTILE = [(1, 1), (2, 1), (640, 4), (640, 1), (4, 640), (1, 640), (16384, 16), (16, 16384), (3, 5)]


@pytest.mark.parametrize("size", HOSTILE, ids=str)
def test_hostile_sizes_become_windows_that_are_read_back(size: tuple[int, int]) -> None:
    windows = watched([size] * 16)
    assert [len(window.stills) for window in windows] == [8, 8]
    for window in windows:
        assert decode_window(encode_window(window)) == window
        ((wide, high),) = sizes_of(window)
        assert max(wide, high) == min(640, max(size)) and min(wide, high) >= 1


@pytest.mark.parametrize("size", HOSTILE, ids=str)
def test_a_thin_picture_of_one_colour_shows_nothing(size: tuple[int, int]) -> None:
    wide, high = (min(side, 640) for side in size)
    grey = VideoFrame.from_ndarray(np.full((high, wide, 3), 90, np.uint8), format="rgb24")
    scene, luma = SceneHealth(), ScaledPicture(grey, (wide, high)).luma()
    signals = [scene.observe(START + timedelta(seconds=second), luma) for second in range(32)]
    assert {each.state for each in signals[-1]} == {CoverageState.FROZEN, CoverageState.COVERED}


@pytest.fixture(params=["yuv420p", "yuv444p", "gray", "yuv420p10le", "rgb24", "pal8", "nv12"])
def odd(request: pytest.FixtureRequest) -> Iterator[VideoFrame]:
    yield VideoFrame(7, 5, str(request.param))


def test_odd_formats_become_stills(odd: VideoFrame) -> None:
    camera = replace(CAMERA, still_side=3, mask=(HALF,))
    scaled = ScaledPicture(odd, StillSize(camera).update(odd, 1.0), camera.mask)
    jpeg = scaled.jpeg(camera.jpeg_quality)
    assert Image.open(BytesIO(jpeg.data)).size == jpeg.size == (3, 2)
    assert scaled.luma().shape == (2, 3)


FORMATS = ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "nv12", "rgb24", "bgr0"]


@pytest.mark.parametrize("scale", [1, 4], ids=["as large", "larger"])
@pytest.mark.parametrize("form", FORMATS)
def test_colours_and_luma_are_those_of_the_camera(form: str, scale: int) -> None:
    picture = picture_of(160 * scale, 96 * scale).reformat(format=form)
    scaled = ScaledPicture(picture, (160, 96))
    jpeg = scaled.jpeg(95)
    with Image.open(BytesIO(jpeg.data)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
        grey = np.asarray(image.convert("L")).astype(int)
    for place, colour in zip(PLACES, (RED, GREEN, BLUE, WHITE), strict=True):
        assert np.abs(pixels[place] - colour).max() <= 4
        assert abs(int(scaled.luma()[place]) - grey[place]) <= 4


def test_luma_is_small_upright_and_black_is_0(tmp_path: Path) -> None:
    recorded(tmp_path / "a.mp4", degrees=90)
    with VideoFile(tmp_path / "a.mp4") as video:
        frame = next(each for each in video.frames() if isinstance(each, Frame))
    luma = ScaledPicture(frame.picture, (96, 160)).luma()
    assert luma.shape == (160, 96)
    corners_of = [int(luma[y, x]) for y in (20, 140) for x in (20, 70)]
    assert sorted(range(4), key=corners_of.__getitem__) == [3, 2, 0, 1]  # blue, red, green, white
    black = VideoFrame.from_ndarray(np.zeros((480, 640, 3), np.uint8), format="rgb24")
    luma = ScaledPicture(black.reformat(format="yuv420p"), (640, 480)).luma()
    assert luma.shape == (120, 160) and luma.max() == 0


HALF = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
CORNER = ((0.55, 0.55), (1.0, 0.55), (1.0, 1.0))


@pytest.mark.parametrize("form", ["yuv420p", "rgb24", "gray"])
def test_a_mask_is_black_and_nothing_else_is(form: str) -> None:
    picture = VideoFrame.from_ndarray(np.full((96, 160, 3), 200, np.uint8), format="rgb24")
    camera = replace(CAMERA, mask=(HALF, CORNER), jpeg_quality=95)
    jpeg = encode_still(picture.reformat(format=form), camera, (160, 96))
    with Image.open(BytesIO(jpeg.data)) as image:
        grey = np.asarray(image.convert("L")).astype(int)
    hidden = hidden_pixels(camera.mask, 96, 160)
    assert 0.57 < hidden.mean() < 0.62
    assert grey[hidden].max() < 30 and grey[~hidden].min() > 170


def test_a_mask_is_where_a_turned_picture_is_seen(tmp_path: Path) -> None:
    mask = (((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5)),)
    recorded(tmp_path / "a.mp4", degrees=90)
    (window,) = VideoWindows(replace(CAMERA, mask=mask), tmp_path / "a.mp4", START)
    for still in window.stills:
        with Image.open(BytesIO(still.jpeg)) as image:
            grey = np.asarray(image.convert("L"))
        assert grey[:78].max() < 30
        assert colours(still)[2:] == [RED, BLUE]


def test_a_still_alone_shows_the_mask_and_outlines() -> None:
    picture = VideoFrame.from_ndarray(np.full((480, 640, 3), 200, np.uint8), format="rgb24")
    frame = Frame(picture=picture, pts=0.0, arrived=0.0, waited=True)
    camera = replace(CAMERA, mask=(HALF,), still_side=320, jpeg_quality=95)
    plain = still_from_frame(frame, camera)
    assert plain == encode_still(picture, camera, (320, 240))
    yard = Outline(corners=((0.6, 0.25), (0.9, 0.25), (0.9, 0.75), (0.6, 0.75)), colour=RED)
    with Image.open(BytesIO(still_from_frame(frame, camera, [yard]).data)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red, green, _ = pixels[60, 200:280].T
    assert (red - green).min() > 80
    assert pixels[100:140, 210:270].min() > 190
    assert pixels[:, :150].max() < 20


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=8),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_every_pixel_whose_middle_a_polygon_holds_is_hidden(
    corners: list[tuple[float, float]], high: int, wide: int
) -> None:
    hidden = hidden_pixels((tuple(corners),), high, wide)
    assert hidden.shape == (high, wide)
    for y, x in np.ndindex(high, wide):
        assert hidden[y, x] or not holds(corners, (x + 0.5) / wide, (y + 0.5) / high)


def holds(corners: Sequence[tuple[float, float]], x: float, y: float) -> bool:
    """Return whether a polygon holds a point, by how often a line from it to the left crosses."""
    crossed = 0
    for (x0, y0), (x1, y1) in pairwise([*corners, corners[0]]):
        if (y0 > y) != (y1 > y):
            crossed += x0 + (y - y0) / (y1 - y0) * (x1 - x0) < x
    return crossed % 2 == 1


def test_live_stills_are_masked() -> None:
    camera = replace(CAMERA, mask=(HALF,))
    (window, *_) = watched([LARGE] * 16, camera)
    for still in window.stills:
        with Image.open(BytesIO(still.jpeg)) as image:
            grey = np.asarray(image.convert("L"))
        assert grey[:, : 640 // 2 - 8].max() < 20
        assert colours(still)[1::2] == [GREEN, WHITE]

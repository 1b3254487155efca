"""What a still of a camera costs: scaled, compressed and looked at, and written with its window.

All ways take turns in one process; a ratio is the median of those of single rounds. `bytes` are
those of a JPEG, `PSNR` is that against the picture scaled in 16 bits.

- rgb: scaled to RGB in one step, compressed by Pillow (as before).
- own: scaled in the camera's own format, then converted (as now).
- ycc: scaled to YCbCr, which Pillow compresses without RGB.
- mjpeg: FFmpeg's encoder, at the quantiser whose PSNR is nearest to Pillow's.
- look before: the JPEG decoded, compared at full size (as before, at the end of a window).
- look: a luma of 160 in a row, taken and judged (as now, per still).

    python tests/bench/stills.py [--video vtest.avi] [--rounds 9]
"""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import partial
from itertools import count, islice, product
from statistics import mean, median

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray
from PIL import Image

from ingest.pictures.scene import SceneHealth
from ingest.pictures.stills import ScaledPicture
from ingest.pictures.view import ViewMonitor
from kit.ingest.coded_video import open_video
from storage.records.records import ClockSource, Still, Window, WindowClock
from storage.records.wire import decode_window, encode_window

SIZE, QUALITY, QUANTISER, COUNT = (640, 360), 85, 3, 16
SOURCES = {"640x360": (640, 360), "1080p": (1920, 1080)}
MATRICES = (Colorspace.ITU601, Colorspace.ITU709)
START = datetime(2026, 1, 1, tzinfo=UTC)
Way = Callable[[VideoFrame], bytes]


def pictures(video: str | None, size: tuple[int, int], matrix: Colorspace) -> list[VideoFrame]:
    """Return decoded H.264 keyframes with the noise of a sensor, of a video or drawn."""
    draw, encoded = np.random.default_rng(1), io.BytesIO()
    with av.open(encoded, "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "1", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for place in places(video, size):
            noisy = np.clip(place + draw.normal(0, 3, place.shape), 0, 255).astype(np.uint8)
            container.mux(stream.encode(VideoFrame.from_ndarray(noisy, format="rgb24")))
        container.mux(stream.encode())
    encoded.seek(0)
    with open_video(encoded, format="h264") as container:
        found = list(container.decode(video=0))
    for each in found:
        each.colorspace = matrix
    return found


def places(video: str | None, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    if video is None:
        cells = np.random.default_rng(2).integers(0, 256, (COUNT, 36, 64, 3)).astype(np.uint8)
        images = [Image.fromarray(each).resize(size, Image.Resampling.BICUBIC) for each in cells]
        return [np.asarray(image) for image in images]
    with open_video(video) as container:
        frames = islice(container.decode(video=0), 0, COUNT * 10, 10)
        return [
            each.reformat(*size, format="rgb24", interpolation="BICUBIC")
            .to_ndarray()
            .astype(np.uint8)
            for each in frames
        ]


def rgb(picture: VideoFrame) -> bytes:
    scaled = picture.reformat(*SIZE, format="rgb24", interpolation="AREA")
    return compressed(Image.fromarray(scaled.to_ndarray()))


def own(picture: VideoFrame) -> bytes:
    return ScaledPicture(picture, SIZE).jpeg(QUALITY).data


def full_range(picture: VideoFrame, form: str) -> VideoFrame:
    return picture.reformat(
        *SIZE,
        format=form,
        interpolation="AREA",
        dst_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU601,
    )


def ycc(picture: VideoFrame) -> bytes:
    planes = (
        Image.frombuffer("L", SIZE, bytes(plane), "raw", "L", plane.line_size, 1)
        for plane in full_range(picture, "yuv444p").planes
    )
    return compressed(Image.merge("YCbCr", list(planes)))


def compressed(image: Image.Image) -> bytes:
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=QUALITY)
    return jpeg.getvalue()


@dataclass(slots=True)
class Mjpeg:
    """FFmpeg's encoder, kept open."""

    numbers: "count[int]" = field(default_factory=count)
    codec: VideoCodecContext | None = None

    def __call__(self, picture: VideoFrame) -> bytes:
        if self.codec is None:
            self.codec = VideoCodecContext.create("mjpeg", "w")
            self.codec.width, self.codec.height = SIZE
            self.codec.pix_fmt, self.codec.time_base = "yuvj420p", Fraction(1, 25)
            self.codec.framerate, self.codec.bit_rate = Fraction(25), 50_000_000
            self.codec.qmin = self.codec.qmax = QUANTISER
            self.codec.thread_count = 1
        frame = full_range(picture, "yuvj420p")
        frame.pts, frame.time_base = next(self.numbers), Fraction(1, 25)
        return b"".join(bytes(packet) for packet in self.codec.encode(frame))


def psnr(jpeg: bytes, picture: VideoFrame) -> float:
    exact = picture.reformat(*SIZE, format="rgb48le", interpolation="AREA").to_ndarray() / 257
    with Image.open(io.BytesIO(jpeg)) as image:
        off = np.asarray(image.convert("RGB")) - exact
    return float(10 * np.log10(255**2 / (off**2).mean()))


@dataclass(slots=True)
class BaselineSceneCheck:
    """Look at each still as at the end of a window: decoded, compared with eight, and judged."""

    kept: Sequence[NDArray[np.uint8]]
    view: ViewMonitor = field(default_factory=ViewMonitor)
    numbers: "count[int]" = field(default_factory=count)

    def __call__(self, jpeg: bytes) -> None:
        with Image.open(io.BytesIO(jpeg)) as image:
            image.draft("L", image.size)
            luma = np.asarray(image.convert("L"))
        for each in self.kept:
            np.abs(each.astype(np.int16) - luma).mean()
        self.view.update(START + timedelta(seconds=next(self.numbers)), luma.astype(np.float32))


@dataclass(slots=True)
class SceneCheck:
    """Look at each picture as the recorder does."""

    scene: SceneHealth = field(default_factory=SceneHealth)
    numbers: "count[int]" = field(default_factory=count)

    def __call__(self, scaled: ScaledPicture) -> None:
        self.scene.observe(START + timedelta(seconds=next(self.numbers)), scaled.luma())


def window_of(jpegs: Sequence[bytes]) -> Window:
    stills = (
        Still(at=START + timedelta(seconds=n), jpeg=jpeg, width=SIZE[0], height=SIZE[1])
        for n, jpeg in enumerate(jpegs)
    )
    clock = WindowClock(source=ClockSource.RECEIVED, offset=0.0)
    return Window(camera="dock", stills=tuple(stills), clock=clock, after_gap=False)


def rounds(ways: dict[str, Callable[[], object]], times: int) -> dict[str, list[float]]:
    """Return the milliseconds of CPU of each way in each round, which begins with another one."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for nth in range(times):
        for name in names[nth % len(names) :] + names[: nth % len(names)]:
            began = time.process_time()
            ways[name]()
            took[name].append((time.process_time() - began) * 1e3)
    return took


def show(title: str, took: dict[str, list[float]], each: int, more: dict[str, str]) -> None:
    first = next(iter(took.values()))
    print(title)
    for name, times in took.items():
        ratio = median(one / other for one, other in zip(times, first, strict=True))
        print(f"  {name:12} {median(times) / each:6.2f} ms  x {ratio:.2f}  {more.get(name, '')}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--video")
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    for (name, size), matrix in product(SOURCES.items(), MATRICES):
        taken = pictures(asked.video, size, matrix)
        compare_stills(f"a still of {name}, {matrix.name}", taken, asked.rounds)
    compare_looks(taken, asked.rounds)


def compare_stills(title: str, taken: Sequence[VideoFrame], times: int) -> None:
    ways: dict[str, Way] = {"rgb": rgb, "own": own, "ycc": ycc, "mjpeg": Mjpeg()}
    jpegs = {name: list(map(way, taken)) for name, way in ways.items()}
    quality = {
        name: f"{mean(map(len, made)):.0f} bytes, PSNR {mean(map(psnr, made, taken)):.2f} dB"
        for name, made in jpegs.items()
    }
    took = rounds({name: partial(each_of, way, taken) for name, way in ways.items()}, times)
    show(title, took, len(taken), quality)


def each_of(way: Callable[..., object], things: Sequence[object]) -> None:
    for each in things:
        way(each)


def compare_looks(taken: Sequence[VideoFrame], times: int) -> None:
    before = BaselineSceneCheck([np.zeros(SIZE[::-1], np.uint8)] * 8)
    scaled, look = [ScaledPicture(each, SIZE) for each in taken], SceneCheck()
    made = [each.jpeg(QUALITY).data for each in scaled]
    window = window_of(made)
    took = rounds(
        {
            "look before": partial(each_of, before, made),
            "look": partial(each_of, look, scaled),
        },
        times,
    )
    show("a look at a still", took, len(made), {})
    took = rounds(
        {
            "read back": lambda: decode_window(encode_window(window)),
            "written": lambda: encode_window(window),
        },
        5 * times,
    )
    show("a window as bytes", took, 1, {})


if __name__ == "__main__":
    main()

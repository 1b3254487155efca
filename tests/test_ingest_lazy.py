"""What is not looked at is not decoded, and what is looked at is the same picture all the same."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from io import BytesIO
from itertools import pairwise

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from hypothesis import given
from hypothesis import strategies as st
from ingest_fixtures import RtspServer, a_camera, wait_until, watching
from numpy.typing import NDArray
from recorder_fixtures import Live, a_frame
from structlog.testing import capture_logs

from ingest.camera import Camera, Decode
from ingest.decoding import Decoded, Decoder
from ingest.frames import CodedFrame, Frame, NoPicture
from ingest.hardware import accelerator
from ingest.keyframes import FREQUENT, MEASURED, SELDOM, Keyframes
from ingest.lazy import MOST_HELD, LazyDecoder
from ingest.pace import Pace
from ingest.sights import Read, Sights
from ingest.source import Source
from storage.records import CoverageState

RATE = 25
SIZE = 160, 96
SAME = 40.0
"""Decibels."""
QUIET = "log-level=0:pools=1:frame-threads=1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How a video is encoded."""

    codec: str = "libx264"
    gop: int = 25
    b_frames: int = 0
    is_open: bool = False
    form: str = "mpegts"

    @property
    def options(self) -> dict[str, str]:
        if self.codec == "mjpeg":
            return {"qscale": "3"}
        extra = f"keyint={self.gop}:min-keyint={self.gop}:scenecut=0:bframes={self.b_frames}"
        if self.codec == "libx265":
            params = f"{extra}:open-gop={int(self.is_open)}:repeat-headers=1:{QUIET}"
            return {"preset": "ultrafast", "x265-params": params}
        return {"preset": "ultrafast", "x264-params": f"{extra}:open-gop={int(self.is_open)}"}


def scene(number: int) -> NDArray[np.uint8]:
    """Return a picture of a ground that moves, with the noise of a sensor."""
    draw = np.random.default_rng(5)
    ground = draw.integers(40, 215, (SIZE[1] // 16, SIZE[0] // 16, 3), dtype=np.uint8)
    moved = np.roll(ground.repeat(16, 0).repeat(16, 1), number * 3 % SIZE[0], 1)
    noise = np.random.default_rng(number).integers(0, 12, moved.shape, dtype=np.uint8)
    return moved + noise


@cache
def encoded(kind: Kind, frames: int) -> bytes:
    file = BytesIO()
    with av.open(file, "w", format=kind.form) as container:
        stream = container.add_stream(kind.codec, rate=RATE, options=kind.options)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuvj420p" if kind.codec == "mjpeg" else "yuv420p"
        for number in range(frames):
            container.mux(stream.encode(VideoFrame.from_ndarray(scene(number), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


@dataclass(slots=True, kw_only=True)
class Watched:
    """The stills that came of a stream by their instant, and how much was decoded for them."""

    stills: dict[float, NDArray[np.uint8]] = field(default_factory=dict)
    decoded: int = 0
    packets: int = 0
    failures: int = 0
    most_held: int = 0
    left_out: dict[float, str] = field(default_factory=dict)

    def after(self, second: float) -> dict[float, NDArray[np.uint8]]:
        return {at: still for at, still in self.stills.items() if at >= second}


Change = Callable[[int, bytes], bytes | None]


def watched(
    video: bytes,
    *,
    fps: float = 1.0,
    decodes_all: bool = False,
    change: Change = lambda _, data: data,
) -> Watched:
    """Watch a stream, as the recorder does; `change` damages packets, or loses them."""
    seen = Watched()
    now = 0.0
    with av.open(BytesIO(video)) as container:
        decoder = Decoder(container, lambda: now)
        lazy = LazyDecoder(decoder, decodes_all=decodes_all)
        keyframes = Keyframes(fps)
        pace = Pace(fps, keyframes)
        for number, packet in enumerate(packets_of(container, decoder.stream, change)):
            now = number / RATE
            seen.packets += 1
            pictures = lazy.take(packet)
            if pictures is None:
                at = decoder.pts(packet) or 0.0
                keyframes.see(at, is_keyframe=decoder.stands_alone)
                if pace.keeps_coded(at, is_keyframe=decoder.stands_alone):
                    picture = lazy.decode()
                    if picture is None:
                        seen.failures += 1
                        pace.give_back()
                    else:
                        assert picture.pts == at
                        seen.stills[at] = luma(picture)
            else:
                for picture in pictures:
                    assert picture.pts is not None
                    keyframes.see(picture.pts, is_keyframe=picture.is_keyframe)
                    if pace.keeps(picture.pts):
                        seen.stills[picture.pts] = luma(picture)
                if decoder.left_out:
                    seen.left_out[now] = decoder.left_out
        seen.decoded = decoder.came
    return seen


def packets_of(
    container: av.container.InputContainer, stream: VideoStream, change: Change
) -> Iterator["Packet[VideoStream]"]:
    for number, packet in enumerate(container.demux(stream)):
        data = change(number, bytes(packet))
        if data is None or not packet.size:
            continue
        if data != bytes(packet):
            other = Packet(data)
            other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
            other.stream, other.is_keyframe = packet.stream, packet.is_keyframe
            packet = other
        yield packet


def luma(picture: Decoded) -> NDArray[np.uint8]:
    return picture.picture.to_ndarray(format="gray")


def likeness(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return how like each other two pictures are, in decibels."""
    error = float(((one.astype(np.float32) - other) ** 2).mean())
    return float(10 * np.log10(255**2 / max(error, 1e-4)))


@cache
def every_picture(kind: Kind, frames: int) -> dict[float, NDArray[np.uint8]]:
    return watched(encoded(kind, frames), fps=1000.0, decodes_all=True).stills


def nearest(instants: Sequence[float], at: float) -> float:
    return min(abs(at - each) for each in instants)


LONG = 20 * RATE
H264, H265 = Kind(), Kind(codec="libx265")
PLAIN = [
    (replace(H264, gop=10), 0.25),
    (H264, 0.25),
    (replace(H264, form="mp4"), 0.25),
    (replace(H264, gop=50), 0.62),
    (replace(H264, gop=100), 0.85),
    (replace(H265, gop=10), 0.25),
    (H265, 0.25),
    (replace(H265, form="mp4"), 0.25),
    (replace(H265, gop=50), 0.62),
    (Kind(codec="mjpeg", gop=1, form="avi"), 0.06),
]
ALL = [
    replace(H264, gop=250),
    replace(H264, b_frames=2),
    replace(H264, b_frames=2, is_open=True),
    replace(H265, gop=250),
    replace(H265, b_frames=2),
    replace(H265, b_frames=2, is_open=True),
]


@pytest.mark.parametrize(("kind", "share"), PLAIN, ids=str)
def test_only_what_a_still_needs_is_decoded(kind: Kind, share: float) -> None:
    lazy = watched(encoded(kind, LONG))
    assert lazy.packets == LONG
    assert lazy.decoded <= share * LONG


@pytest.mark.parametrize("kind", ALL, ids=str)
def test_what_cannot_be_held_is_all_decoded(kind: Kind) -> None:
    assert watched(encoded(kind, LONG)).decoded > 0.9 * LONG


@pytest.mark.parametrize("kind", [*(kind for kind, _ in PLAIN), *ALL], ids=str)
def test_stills_are_those_of_full_decoding(kind: Kind) -> None:
    video = encoded(kind, LONG)
    lazy, full = watched(video), watched(video, decodes_all=True)
    assert abs(len(lazy.stills) - len(full.stills)) <= 1
    assert not lazy.failures and not lazy.left_out
    truth = every_picture(kind, LONG)
    for at, still in lazy.stills.items():
        assert nearest(list(full.stills), at) <= 0.5
        assert likeness(still, truth[at]) >= SAME
    for at in full.stills:
        assert at > max(truth) - 0.5 or nearest(list(lazy.stills), at) <= 0.5


@pytest.mark.parametrize("kind", [H264, H265], ids=str)
def test_a_still_of_each_picture_is_a_still_of_each_picture(kind: Kind) -> None:
    lazy = watched(encoded(kind, LONG), fps=RATE)
    assert len(lazy.stills) == LONG


@pytest.mark.parametrize("kind", [H264, H265, replace(H264, gop=50)], ids=str)
def test_with_all_frames_asked_for_all_are_decoded(kind: Kind) -> None:
    assert watched(encoded(kind, LONG), decodes_all=True).decoded == LONG


@pytest.mark.parametrize("gop", [25, 50])
def test_after_a_loss_in_what_is_held_nothing_is_shown_until_a_keyframe(gop: int) -> None:
    kind = replace(H264, gop=gop)
    lost = range(305, 308)
    broken = watched(
        encoded(kind, LONG), fps=5.0, change=lambda n, data: None if n in lost else data
    )
    truth = every_picture(kind, LONG)
    zero = min(truth)
    back = zero + (325 if gop == 25 else 350) / RATE
    assert min(likeness(still, truth[at]) for at, still in broken.stills.items()) >= SAME
    dark = [at for at in broken.stills if zero + 305 / RATE < at < back - 0.01]
    assert not dark
    assert nearest(list(broken.stills), back) < 0.01
    assert any("next keyframe" in reason for reason in broken.left_out.values())
    assert len(broken.after(back)) >= 5 * (LONG / RATE - (back - zero)) - 1


@pytest.mark.parametrize("kind", [replace(H264, gop=50), replace(H265, gop=50)], ids=str)
def test_damage_within_what_is_held_is_found_where_a_still_is_due(kind: Kind) -> None:
    def garble(number: int, data: bytes) -> bytes:
        if number not in (306, 307):
            return data
        draw = random.Random(number)
        return data[:60] + bytes(draw.randrange(256) for _ in data[60:])

    broken = watched(encoded(kind, LONG), fps=2.0, change=garble)
    truth = every_picture(kind, LONG)
    zero, hole = min(truth), 306 / RATE
    full = watched(encoded(kind, LONG), fps=2.0, change=garble, decodes_all=True)
    worst = min(likeness(still, truth[at]) for at, still in full.stills.items())
    assert min(likeness(still, truth[at]) for at, still in broken.stills.items()) >= min(SAME, worst)
    assert len(broken.after(zero + 350 / RATE)) == len(full.after(zero + 350 / RATE))
    assert broken.decoded > full.decoded / 2 and hole > 0


def test_random_losses_never_show_what_full_decoding_does_not() -> None:
    kind = replace(H264, gop=25)
    draw = random.Random(4)
    gone = {n for n in range(60, LONG) if draw.random() < 0.01}
    lazy = watched(encoded(kind, LONG), change=lambda n, data: None if n in gone else data)
    truth = every_picture(kind, LONG)
    assert gone and lazy.stills
    assert min(likeness(still, truth[at]) for at, still in lazy.stills.items()) >= SAME


def test_a_stream_that_turns_to_b_frames_is_decoded_as_it_comes() -> None:
    plain, other = packets(H264, 200), packets(replace(H264, b_frames=2), 200)
    lazy = LazyDecoder(decoder := Decoder(opened(H264, 200)), decodes_all=False)
    held = [lazy.take(packet) is None for packet in plain]
    assert sum(held) == 175
    assert not held[0] and held[-1]
    shift = (plain[-1].pts or 0) + 3600
    pictures = 0
    for packet in other:
        packet.pts = (packet.pts or 0) + shift
        pictures += len(lazy.take(packet) or ())
    assert pictures > 150
    assert decoder.is_whole


def opened(kind: Kind, frames: int) -> av.container.InputContainer:
    return av.open(BytesIO(encoded(kind, frames)))


def packets(kind: Kind, frames: int) -> list["Packet[VideoStream]"]:
    with opened(kind, frames) as container:
        return [packet for packet in container.demux(video=0) if packet.size]

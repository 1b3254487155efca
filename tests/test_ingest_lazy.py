"""What is not looked at is not decoded, and what is looked at is the same picture all the same."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from io import BytesIO
from itertools import islice, pairwise

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from hypothesis import given
from hypothesis import strategies as st
from ingest_fixtures import RtspServer, a_camera
from numpy.typing import NDArray
from recorder_fixtures import Live, a_frame
from structlog.testing import capture_logs

from ingest.camera import Decode
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
    refreshes: bool = False
    form: str = "mpegts"

    @property
    def options(self) -> dict[str, str]:
        if self.codec == "mjpeg":
            return {"qscale": "3"}
        extra = f"keyint={self.gop}:min-keyint={self.gop}:scenecut=0:bframes={self.b_frames}"
        if self.codec == "libx265":
            params = f"{extra}:open-gop={int(self.is_open)}:repeat-headers=1:{QUIET}"
            return {"preset": "ultrafast", "x265-params": params}
        extra += f":open-gop={int(self.is_open)}:intra-refresh={int(self.refreshes)}"
        return {"preset": "ultrafast", "x264-params": extra}


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
        yield packet if data == bytes(packet) else other_data(packet, data)


def other_data(packet: "Packet[VideoStream]", data: bytes) -> "Packet[VideoStream]":
    other = Packet(data)
    other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
    other.stream, other.is_keyframe = packet.stream, packet.is_keyframe
    return other


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
    replace(H264, refreshes=True),
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
    assert all("next keyframe" in reason for reason in broken.left_out.values())
    assert min(broken.left_out) == 305 / RATE
    assert len(broken.after(back)) >= 5 * (LONG / RATE - (back - zero)) - 1


@pytest.mark.parametrize("kind", [replace(H264, gop=50), replace(H265, gop=50)], ids=str)
def test_damage_within_what_is_held_is_found_where_a_still_is_due(kind: Kind) -> None:
    def garble(number: int, data: bytes) -> bytes:
        if number not in (306, 307):
            return data
        draw = random.Random(number)
        return data[:60] + bytes(draw.randrange(256) for _ in data[60:])

    broken = watched(encoded(kind, LONG), fps=2.0, change=garble)
    full = watched(encoded(kind, LONG), fps=1000.0, change=garble, decodes_all=True)
    back = min(full.stills) + 350 / RATE
    for at, still in broken.stills.items():
        assert likeness(still, full.stills[at]) >= SAME
    assert nearest(list(broken.stills), back) < 0.01
    assert len(broken.after(back)) >= 2 * 6
    if kind.codec == "libx264":  # H.265 has no way to tell
        assert broken.failures == 1
        assert not [at for at in broken.stills if back - 44 / RATE <= at < back - 0.01]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [H264, replace(H264, gop=50), H265], ids=str)
def test_no_damage_shows_what_full_decoding_does_not_show(kind: Kind, seed: int) -> None:
    draw = random.Random(seed)
    fates = {n: draw.choice(("lost", "garbled", "cut")) for n in draw.sample(range(60, LONG), 6)}

    def damage(number: int, data: bytes) -> bytes | None:
        fate = fates.get(number, "whole")
        if fate == "lost" and kind.codec == "libx264":  # of H.265, RTP tells it
            return None
        noise = random.Random(number)
        place = noise.randrange(len(data) // 2, len(data)) if data else 0
        if fate == "garbled":
            return data[:place] + bytes(noise.randrange(256) for _ in data[place:])
        return data[:place] if fate == "cut" else data

    lazy = watched(encoded(kind, LONG), fps=2.0, change=damage)
    full = watched(encoded(kind, LONG), fps=1000.0, change=damage, decodes_all=True)
    assert len(lazy.stills) > 10
    for at, still in lazy.stills.items():
        assert likeness(still, full.stills[at]) >= SAME


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


def test_what_is_held_is_bounded() -> None:
    """Nobody asks for a picture: what is held is decoded to make room, and is not damaged."""
    lazy = LazyDecoder(decoder := Decoder(opened(replace(H264, gop=200), 600)))
    most, sizes = 0, 0
    for packet in packets(replace(H264, gop=200), 600):
        larger = grown(packet, MOST_HELD // 40)
        sizes += larger.size
        lazy.take(larger)
        most = max(most, lazy.held_bytes)
    assert sizes > 5 * MOST_HELD
    assert MOST_HELD / 2 < most <= MOST_HELD
    assert decoder.is_whole and decoder.came > 500


def grown(packet: "Packet[VideoStream]", size: int) -> "Packet[VideoStream]":
    """Return the packet with so much filler data behind it (ITU-T H.264, 7.3.2.7)."""
    filler = b"\0\0\1\x0c" + b"\xff" * size + b"\x80"
    return other_data(packet, bytes(packet) + filler)


def test_b_frames_that_are_stamped_as_if_there_were_none_are_found_out() -> None:
    """Only the pictures show it: those that come are not those that were asked for."""
    lazy = LazyDecoder(Decoder(opened(H264, 200)))
    plain, other = packets(H264, 50), packets(replace(H264, b_frames=2), 200)
    assert [lazy.take(packet) for packet in plain][-1] is None
    asked, pictures = list[Decoded | None](), 0
    for number, packet in enumerate(other):
        packet.pts = (plain[-1].pts or 0) + 3600 * (number + 1)
        found = lazy.take(packet)
        if found is not None:
            pictures += len(found)
        elif number % 12 == 6:
            asked.append(lazy.decode())
    assert asked == [None]
    assert pictures > 180


def opened(kind: Kind, frames: int) -> av.container.InputContainer:
    return av.open(BytesIO(encoded(kind, frames)))


def packets(kind: Kind, frames: int) -> list["Packet[VideoStream]"]:
    with opened(kind, frames) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


keyframe_steps = st.integers(1, 27)


def seen_at(gop: int, seconds: int, phase: float = 0.0, seed: int = 0) -> list[tuple[float, bool]]:
    """Return when frames are seen, 25 a second with some jitter, and which are keyframes."""
    draw = random.Random(seed)
    jitter = [draw.uniform(-0.005, 0.005) for _ in range(seconds * RATE)]
    return [(phase + n / RATE + late, n % gop == 0) for n, late in enumerate(jitter)]


def paced(frames: Sequence[tuple[float, bool]], first: float = 0.0) -> list[tuple[float, bool]]:
    """Return what is kept of them at one still a second; the ticks start at `first`."""
    keyframes = Keyframes(1.0)
    pace = Pace(1.0, keyframes)
    assert pace.keeps(first)
    kept = []
    for at, is_keyframe in frames:
        keyframes.see(at, is_keyframe=is_keyframe)
        if pace.keeps_coded(at, is_keyframe=is_keyframe):
            kept.append((at, is_keyframe))
    return kept


@given(gop=keyframe_steps, phase=st.floats(0.04, 1.0), seed=st.integers(0, 1000))
def test_frequent_keyframes_make_all_stills(gop: int, phase: float, seed: int) -> None:
    seconds, interval = 100, gop / RATE
    kept = paced(seen_at(gop, seconds, phase, seed))
    measured = phase + (MEASURED + 1) * interval
    assert all(is_keyframe for at, is_keyframe in kept if at > measured)
    steps = [later - earlier for (earlier, _), (later, _) in pairwise(kept) if earlier > measured]
    assert max(steps) <= 1.05 + interval + 0.02
    assert 0.93 * min(1.0, 1 / interval) <= len(steps) / sum(steps) <= 1.07


@given(phase=st.floats(0.04, 1.0), seed=st.integers(0, 1000))
def test_a_keyframe_a_second_is_a_still_a_second_whatever_its_phase(
    phase: float, seed: int
) -> None:
    kept = paced(seen_at(25, 100, phase, seed))
    assert len([at for at, is_keyframe in kept if is_keyframe and at > 12]) >= 87
    assert max(later - earlier for (earlier, _), (later, _) in pairwise(kept)) <= 1.55


@given(phase=st.floats(0.04, 1.0), seed=st.integers(0, 1000))
def test_ticks_come_to_be_at_keyframes_that_are_two_ticks_apart(phase: float, seed: int) -> None:
    kept = [is_keyframe for at, is_keyframe in paced(seen_at(50, 100, phase, seed)) if at > 6]
    assert 93 <= len(kept) <= 96
    assert 46 <= sum(kept) <= 48


@given(st.lists(st.floats(0.001, 2.0), min_size=1, max_size=300), st.randoms())
def test_without_frequent_keyframes_no_tick_is_lost(
    steps: list[float], draw: random.Random
) -> None:
    at, frames = 0.0, []
    for step in steps:
        at += step
        frames.append((at, draw.random() < 0.02))
    kept = [0.0, *(at for at, _ in paced(frames))]
    instants = [at for at, _ in frames]
    for earlier, later in pairwise([*kept, at + 0.001]):
        between = [each for each in instants if earlier < each < later]
        assert not [each for each in between if each - earlier > 1.6]


def test_keyframes_are_frequent_after_ten_intervals_until_one_is_late() -> None:
    keyframes, often = Keyframes(1.0), FREQUENT - 0.001
    for second in range(MEASURED):
        keyframes.see(second * often, is_keyframe=True)
        assert not keyframes.are_frequent
    last = MEASURED * often
    keyframes.see(last, is_keyframe=True)
    assert keyframes.are_frequent
    keyframes.see(last + SELDOM - 0.001, is_keyframe=False)
    assert keyframes.are_frequent
    keyframes.see(last + SELDOM + 0.001, is_keyframe=False)
    assert not keyframes.are_frequent
    for second in range(1, MEASURED + 2):
        keyframes.see(last + 1 + second, is_keyframe=True)
        assert keyframes.are_frequent == (second == MEASURED + 1)


@dataclass
class Coded:
    """Frames for a recorder, 25 a second; counts those that are decoded."""

    live: Live
    gop: int = 25
    broken: range = range(0)
    silent: range = range(0)
    decoded: list[float] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        for number in range(round(seconds * RATE)):
            if number in self.silent:
                continue
            self._see(number, number / RATE)

    def _see(self, number: int, at: float) -> None:
        def decode() -> Frame | NoPicture:
            self.decoded.append(at)
            if number in self.broken:
                return NoPicture(arrived=at, reason="smeared")
            return a_frame(at, at, waited=True)

        self.live.wait(at)
        if number in self.broken and self.decoded and number > self.broken[0] + RATE:
            self.live.recorder.see(NoPicture(arrived=at, reason="smeared"))
            return
        self.live.recorder.see(
            CodedFrame(
                pts=at,
                arrived=at,
                waited=True,
                is_keyframe=number % self.gop == 0,
                decode=decode,
            )
        )


@pytest.mark.parametrize(("gop", "most"), [(25, 33), (50, 33), (1000, 33)])
def test_a_recorder_asks_for_what_it_keeps_and_for_nothing_else(gop: int, most: int) -> None:
    live = Live()
    coded = Coded(live, gop)
    coded.run(32.5)
    assert len(coded.decoded) == most
    stills = [second for window in live.stills for second in window]
    assert stills == [pytest.approx(second, abs=0.05) for second in range(32)]
    assert {state for _, _, state in live.told} == {"waiting"}


def test_a_still_that_cannot_be_decoded_is_tried_again_with_the_next_frame() -> None:
    live = Live()
    coded = Coded(live, gop=50, broken=range(200, 203))
    coded.run(16.5)
    assert [at for at in coded.decoded if 8.0 <= at < 9.0] == pytest.approx([8.0, 8.04, 8.08, 8.12])
    assert len([second for window in live.stills for second in window]) == 16


def test_what_cannot_be_decoded_for_long_is_a_broken_stream() -> None:
    live = Live()
    coded = Coded(live, gop=50, broken=range(200, 350))
    coded.run(40.0)
    broken = [(start, end) for start, end, state in live.told if state == "stream_broken"]
    assert broken
    assert min(start for start, _ in broken) == pytest.approx(8.0, abs=1.1)
    assert max(end for _, end in broken) == pytest.approx(14.0, abs=0.1)
    reasons = [each.reason for each in live.claims if each.state is CoverageState.STREAM_BROKEN]
    assert "smeared" in reasons


def test_a_gap_behind_what_could_not_be_decoded_has_its_reason() -> None:
    live = Live()
    coded = Coded(live, gop=50, broken=range(200, 201), silent=range(201, 326))
    coded.run(24.0)
    assert "smeared" in {claim.reason for claim in live.claims}


def test_sights_are_coded_once_a_stream_has_proved_itself() -> None:
    container = opened(H264, 100)
    sights = Sights(Decoder(container), nothing_told, decodes_all=False)
    found = [
        sights.of(Read(packet=packet, at=0.0, waited=True, follows_loss=False))
        for packet in container.demux(video=0)
        if packet.size
    ]
    kinds = [type(sight) for (sight,) in found]
    assert kinds == [Frame] * 25 + [CodedFrame] * 75
    assert [n for n, (sight,) in enumerate(found) if is_key(sight)] == [0, 25, 50, 75]
    (last,) = found[-1]
    assert isinstance(last, CodedFrame)
    frame = last.decode()
    assert isinstance(frame, Frame)
    assert (frame.pts, frame.arrived, frame.waited) == (last.pts, last.arrived, last.waited)
    with pytest.raises(RuntimeError):
        last.decode()


def is_key(sight: object) -> bool:
    assert isinstance(sight, Frame | CodedFrame)
    return sight.is_keyframe


@contextmanager
def nothing_told() -> Iterator[None]:
    yield


def test_a_real_camera_is_decoded_where_it_is_looked_at(rtsp: RtspServer) -> None:
    keyframe: Frame | NoPicture | None = None
    held = 0
    with Source(a_camera(rtsp.url)) as source:
        for sight in source.frames():
            held += isinstance(sight, CodedFrame)
            if isinstance(sight, CodedFrame) and sight.is_keyframe:
                keyframe = sight.decode()
            if held > 25:
                break
    assert isinstance(keyframe, Frame)
    assert keyframe.picture.key_frame


def test_all_of_a_real_camera_is_decoded_where_that_is_set(rtsp: RtspServer) -> None:
    with Source(a_camera(rtsp.url, decode=Decode(frames="all"))) as source:
        sights = list(islice(source.frames(), 40))
    assert not any(isinstance(sight, CodedFrame) for sight in sights)


def test_without_a_card_video_is_decoded_all_the_same_and_one_line_says_so(
    rtsp: RtspServer,
) -> None:
    if accelerator("cuda") is not None:
        pytest.skip("there is a card here")
    accelerator.cache_clear()
    with capture_logs() as lines:
        for _ in range(2):
            with Source(a_camera(rtsp.url, decode=Decode(hardware="cuda"))) as source:
                sights = islice(source.frames(), 20)
                assert any(isinstance(sight, Frame) for sight in sights)
    (line,) = lines
    assert "decoded by the processor" in line["event"]
    assert line["log_level"] == "warning"

"""Pictures after a loss wait for the next keyframe, and not for ever."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ingest.decoding.damage import FIRST_KEYFRAME_TIMEOUT, DamageTracker
from ingest.decoding.decoder import VideoDecoder
from ingest.decoding.frame_numbers import FrameNumbers
from ingest.live.packet_loss import PacketLossMonitor
from kit.ingest.coded_video import add_video_stream, open_video

FPS = 10
SIZE = 320, 192
OTHER_PLACE = 6
SMEARED = 26.0
"""Decibels; an undamaged picture of these clips has more than 34."""

VideoPacket: TypeAlias = "Packet[VideoStream]"


def scene(number: int, place: int = 5) -> NDArray[np.uint8]:
    """Return a picture of a coloured ground that moves to the right; each place has its own."""
    draw = np.random.default_rng(place)
    ground = draw.integers(0, 255, (SIZE[1] // 16, SIZE[0] // 16, 3), dtype=np.uint8)
    return np.roll(ground.repeat(16, 0).repeat(16, 1), number * 3 % SIZE[0], 1)


@cache
def encoded(kind: str, frames: int = 150, place: int = 5) -> bytes:
    """Encode the moving ground, a keyframe or a round of refreshing every 3 s."""
    codec, form, options = {
        "h264": ("libx264", "h264", {"g": "30", "tune": "zerolatency", "bf": "0"}),
        "mp4": ("libx264", "mp4", {"g": "30", "tune": "zerolatency", "bf": "0"}),
        "b-frames": ("libx264", "h264", {"g": "30", "bf": "2"}),
        "refresh": ("libx264", "h264", {"g": "30", "tune": "zerolatency", "intra-refresh": "1"}),
        "h265": (
            "libx265",
            "hevc",
            {"x265-params": f"keyint=30:min-keyint=30:bframes=0:repeat-headers=1:{QUIET}"},
        ),
        "h265-refresh": (
            "libx265",
            "hevc",
            {"x265-params": f"keyint=30:bframes=0:intra-refresh=1:{QUIET}"},
        ),
    }[kind]
    file = BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = add_video_stream(container, codec, FPS, {"preset": "ultrafast", **options})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(frames):
            container.mux(
                stream.encode(VideoFrame.from_ndarray(scene(number, place), format="rgb24"))
            )
        container.mux(stream.encode())
    return file.getvalue()


QUIET = "log-level=0:pools=1:frame-threads=1"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was shown, when, and how like the truth it is, in decibels."""

    second: float
    quality: float


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """What came of a stream: pictures, and when something was left out and why."""

    pictures: list[Picture]
    left_out: dict[float, str]

    def between(self, start: float, end: float) -> list[Picture]:
        return [each for each in self.pictures if start <= each.second < end]


def decode_with_losses(
    kind: str, lost: Iterable[int] = (), *, seconds: float = 15.0, rate: float = FPS
) -> DecodeResult:
    """Decode what is left of a stream without the packets that are lost."""
    gone = set(lost)
    return decoded(encoded(kind, round(seconds * FPS)), lambda n, _: n in gone, rate=rate)


def decoded(
    video: bytes,
    is_lost: Callable[[int, VideoPacket], bool],
    *,
    rate: float = FPS,
    is_truth_known: bool = True,
) -> DecodeResult:
    pictures, left_out, now = list[Picture](), dict[float, str](), 0.0
    with open_video(BytesIO(video)) as container:
        decoder = VideoDecoder(container, lambda: now)
        for number, packet in enumerate(container.demux(decoder.stream)):
            now = number / rate
            if packet.size and is_lost(number, packet):
                continue
            for each in decoder.decode(packet):
                quality = best(each.picture) if is_truth_known else 0.0
                pictures.append(Picture(now, quality))
            if decoder.omission_reason:
                left_out[now] = decoder.omission_reason
    return DecodeResult(pictures, left_out)


@cache
def truths() -> NDArray[np.float32]:
    pictures = [
        VideoFrame.from_ndarray(scene(n, place), format="rgb24")
        for place in (5, OTHER_PLACE)
        for n in range(SIZE[0])
    ]
    return np.stack([small(picture) for picture in pictures])


def small(picture: VideoFrame) -> NDArray[np.float32]:
    return picture.to_ndarray(format="gray")[::8, ::8].astype(np.float32)


def best(picture: VideoFrame) -> float:
    """Return how like the truth a picture is where it is most like it."""
    error = float(((truths() - small(picture)) ** 2).mean((1, 2)).min())
    return float(10 * np.log10(255**2 / max(error, 0.01)))


@pytest.mark.parametrize("kind", ["h264", "mp4", "b-frames", "h265"])
@pytest.mark.parametrize("lost", [range(41, 44), range(60, 61)], ids=["frames", "keyframe"])
def test_after_a_loss_nothing_is_shown_until_the_next_keyframe(kind: str, lost: range) -> None:
    whole, broken = (
        decode_with_losses(kind, seconds=12.0),
        decode_with_losses(kind, lost, seconds=12.0),
    )
    assert len(whole.pictures) == 120 and not whole.left_out
    assert min(each.quality for each in whole.pictures) > SMEARED
    assert min(each.quality for each in broken.pictures) > SMEARED
    first, back = lost[0] / FPS, (6.0 if lost[0] < 60 else 9.0)
    assert not broken.between(first + 0.5, back - 0.2)
    assert len(broken.between(back, 12.0)) >= 10 * (12 - back) - 4
    assert all("next keyframe" in reason for reason in broken.left_out.values())
    assert max(broken.left_out) == pytest.approx(back, abs=0.4)


def test_without_the_check_of_the_numbers_such_pictures_are_smeared() -> None:
    pictures = list[float]()
    with open_video(BytesIO(encoded("h264", 60))) as container:
        for number, packet in enumerate(container.demux(video=0)):
            if number not in range(41, 44):
                pictures += [best(each) for each in packet.decode()]
    assert min(pictures) < SMEARED


def test_intra_refresh_is_shown_again_after_a_whole_round() -> None:
    broken = decode_with_losses("refresh", range(41, 43), seconds=15.0)
    assert min(each.quality for each in broken.pictures) > SMEARED
    assert 8.5 < broken.between(5.0, 15.0)[0].second <= 9.1


def test_h265_with_intra_refresh_is_not_left_out_for_ever() -> None:
    broken = decode_with_losses("h265-refresh", range(41, 43), seconds=30.0)
    after = broken.between(5.0, 30.0)
    assert 15 < after[0].second < 25
    assert min(each.quality for each in after) > SMEARED


def test_one_who_comes_in_the_middle_waits_for_the_first_keyframe() -> None:
    late = decode_with_losses("h264", range(40))
    assert late.pictures[0].second == pytest.approx(6.0, abs=0.1)
    assert min(each.quality for each in late.pictures) > SMEARED
    assert all("none came yet" in reason for reason in late.left_out.values())


def test_a_stream_without_any_keyframe_is_shown_damaged_in_the_end() -> None:
    late = decoded(encoded("h264"), lambda n, packet: packet.is_keyframe, rate=1.0)
    assert FIRST_KEYFRAME_TIMEOUT <= late.pictures[0].second < FIRST_KEYFRAME_TIMEOUT + 3


def test_what_loses_all_the_time_stays_watchable() -> None:
    """Lose one packet in 20: once the bound is used up, what comes is shown."""
    draw = np.random.default_rng(11)
    gone = {int(n) for n in np.flatnonzero(draw.random(600) < 0.05)}
    broken = decode_with_losses("h264", gone, seconds=60.0)
    assert len(broken.between(40, 60)) > 0.8 * 200


def test_a_single_loss_costs_nothing_but_its_own_group_of_pictures() -> None:
    for lost in (31, 59):
        assert len(decode_with_losses("h264", [lost], seconds=12.0).pictures) == 120 - (60 - lost)


@pytest.mark.parametrize("kind", ["h264", "h265"])
def test_a_relay_that_comes_back_to_its_camera_shows_no_ghosts(kind: str) -> None:
    """The other scene begins in the middle: its pictures are drawn on those of the first."""
    units = [
        *packets(encoded(kind, 60))[:44],
        *packets(encoded(kind, 120, OTHER_PLACE))[50:],
    ]
    shown = decoded(b"".join(units), lambda *_: False)
    assert min(each.quality for each in shown.pictures) > SMEARED
    assert not shown.between(4.5, 5.3)
    assert len(shown.between(5.4, 20)) >= 58
    assert shown.left_out


def packets(video: bytes) -> list[bytes]:
    with open_video(BytesIO(video)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def test_h265_over_rtp_that_loses_one_packet(tmp_path: Path) -> None:
    """FFmpeg decodes on without a flag; it tells of the loss in its log alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sdp = tmp_path / "a.sdp"
    sdp.write_text(SDP.format(port=port))
    stop = threading.Event()
    sender = threading.Thread(target=send, args=(port, packets(encoded("h265")), stop))
    sender.start()
    try:
        qualities, reasons = received(sdp)
    finally:
        stop.set()
        sender.join()
    assert len(qualities) > 60
    assert min(qualities) > SMEARED
    assert any("next keyframe" in reason for reason in reasons)


SDP = """v=0
o=- 1 1 IN IP4 127.0.0.1
s=a
c=IN IP4 127.0.0.1
t=0 0
m=video {port} RTP/AVP 96
a=rtpmap:96 H265/90000
"""


def send(port: int, units: list[bytes], stop: threading.Event) -> None:
    """Send the pictures over RTP (RFC 7798) again and again; lose the end of the 46th."""
    sequence = count = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        while not stop.wait(0.02):
            unit = units[count % len(units)]
            parts = [part for nal in nals(unit) for part in fragments(nal)]
            for number, part in enumerate(parts):
                marker = 0x80 if number == len(parts) - 1 else 0
                head = struct.pack(
                    ">BBHII", 0x80, 96 | marker, sequence & 0xFFFF, count * 9000, 0x1234
                )
                sequence += 1
                if (count % len(units), number) != (45, 1):
                    out.sendto(head + part, ("127.0.0.1", port))
            count += 1


def nals(unit: bytes) -> list[bytes]:
    return [nal.rstrip(b"\0") for nal in unit.split(b"\0\0\1")[1:]]


def fragments(nal: bytes, longest: int = 60) -> list[bytes]:
    if len(nal) <= longest:
        return [nal]
    kind, body = (nal[0] >> 1) & 63, nal[2:]
    head = bytes([nal[0] & 0x81 | 49 << 1, nal[1]])
    parts = [body[at : at + longest] for at in range(0, len(body), longest)]
    ends = {0: 0x80, len(parts) - 1: 0x40}
    return [head + bytes([ends.get(n, 0) | kind]) + part for n, part in enumerate(parts)]


def received(sdp: Path) -> tuple[list[float], set[str]]:
    """Decode what comes until half a round behind the loss; return qualities and reasons."""
    qualities, reasons = list[float](), set[str]()
    with (
        av.open(sdp, options={"protocol_whitelist": "file,udp,rtp"}, timeout=5) as container,
        PacketLossMonitor() as loss,
    ):
        decoder = VideoDecoder(container, time.monotonic)
        for number, packet in enumerate(container.demux(decoder.stream)):
            pictures = decoder.decode(packet, follows_loss=loss.take_loss())
            qualities += [best(each.picture) for each in pictures]
            reasons |= {decoder.omission_reason} - {""}
            if number > 100:
                break
    return qualities, reasons


def test_overload_that_skips_to_a_keyframe_is_no_loss() -> None:
    skipped = decode_with_losses("h264", range(35, 60), seconds=9.0)
    assert not skipped.left_out
    assert len(skipped.pictures) == 65


def test_pictures_that_nothing_refers_to_may_be_missing() -> None:
    """Disposable B-pictures: servers drop them on purpose."""
    video = encoded("b-frames")
    shown = decoded(video, lambda n, packet: packet.is_disposable and n % 4 == 0)
    assert not shown.left_out
    assert min(each.quality for each in shown.pictures) > SMEARED


@pytest.mark.parametrize("rubbish", [b"", b"\x00\x00\x01", b"\x00\x00\x01\x67", b"\x01\x64\x00"])
def test_rubbish_is_no_loss_and_no_error(rubbish: bytes) -> None:
    assert not FrameNumbers(rubbish).observe(rubbish)


def test_random_bytes_never_raise() -> None:
    draw = np.random.default_rng(3)
    whole = encoded("h264", 60)
    for _ in range(300):
        start = int(draw.integers(0, len(whole) - 400))
        piece = bytearray(whole[start : start + 400])
        for place in draw.integers(0, 400, 20):
            piece[place] = int(draw.integers(0, 256))
        FrameNumbers(bytes(piece)).observe(bytes(piece[::-1]) + bytes(piece))


def test_the_bound_grows_with_the_keyframes_interval() -> None:
    damage = DamageTracker()
    for second in range(81):
        damage.record_packet(second, second, is_keyframe=second % 20 == 0)
        assert damage.accept_picture(second, is_intra=second % 20 == 0)
    damage.record_loss(81, 81)
    shown = list[int]()
    for second in range(81, 200):
        damage.record_packet(second, second, is_keyframe=False)
        if damage.accept_picture(second, is_intra=False):
            shown.append(second)
    assert shown[0] == 80 + 50

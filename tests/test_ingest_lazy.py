"""What is not looked at is not decoded, and what is looked at is the same picture all the same."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ingest.decoding.decoder import DecodedPicture, VideoDecoder
from ingest.decoding.lazy import MAX_BUFFERED_BYTES, LazyDecoder
from kit.ingest.coded_video import (
    H264,
    H265,
    LONG_FRAMES,
    RATE,
    VideoKind,
    encoded,
    every_picture,
    opened,
    packets,
    watch,
    with_data,
)

SAME = 40.0
"""Decibels."""


def likeness(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return how like each other two pictures are, in decibels."""
    error = float(((one.astype(np.float32) - other) ** 2).mean())
    return float(10 * np.log10(255**2 / max(error, 1e-4)))


def nearest(instants: Sequence[float], at: float) -> float:
    return min(abs(at - each) for each in instants)


PLAIN = [
    (replace(H264, gop=10), 0.25),
    (H264, 0.25),
    (replace(H264, container_format="mp4"), 0.25),
    (replace(H264, gop=50), 0.62),
    (replace(H264, gop=100), 0.85),
    (replace(H265, gop=10), 0.25),
    (H265, 0.25),
    (replace(H265, container_format="mp4"), 0.25),
    (replace(H265, gop=50), 0.62),
    (VideoKind(codec="mjpeg", gop=1, container_format="avi"), 0.06),
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
def test_only_what_a_still_needs_is_decoded(kind: VideoKind, share: float) -> None:
    lazy = watch(encoded(kind, LONG_FRAMES))
    assert lazy.packets == LONG_FRAMES
    assert lazy.decoded <= share * LONG_FRAMES


@pytest.mark.parametrize("kind", ALL, ids=str)
def test_what_cannot_be_held_is_all_decoded(kind: VideoKind) -> None:
    assert watch(encoded(kind, LONG_FRAMES)).decoded > 0.9 * LONG_FRAMES


@pytest.mark.parametrize("kind", [*(kind for kind, _ in PLAIN), *ALL], ids=str)
def test_stills_are_those_of_full_decoding(kind: VideoKind) -> None:
    video = encoded(kind, LONG_FRAMES)
    lazy, full = watch(video), watch(video, decodes_all=True)
    assert abs(len(lazy.stills) - len(full.stills)) <= 1
    assert not lazy.failures and not lazy.left_out
    truth = every_picture(kind, LONG_FRAMES)
    for at, still in lazy.stills.items():
        assert nearest(list(full.stills), at) <= 0.5
        assert likeness(still, truth[at]) >= SAME
    for at in full.stills:
        assert at > max(truth) - 0.5 or nearest(list(lazy.stills), at) <= 0.5


@pytest.mark.parametrize("kind", [H264, H265], ids=str)
def test_a_still_of_each_picture_is_a_still_of_each_picture(kind: VideoKind) -> None:
    lazy = watch(encoded(kind, LONG_FRAMES), fps=RATE)
    assert len(lazy.stills) == LONG_FRAMES


@pytest.mark.parametrize("kind", [H264, H265, replace(H264, gop=50)], ids=str)
def test_with_all_frames_asked_for_all_are_decoded(kind: VideoKind) -> None:
    assert watch(encoded(kind, LONG_FRAMES), decodes_all=True).decoded == LONG_FRAMES


@pytest.mark.parametrize("gop", [25, 50])
def test_after_a_loss_in_what_is_held_nothing_is_shown_until_a_keyframe(gop: int) -> None:
    kind = replace(H264, gop=gop)
    lost = range(305, 308)
    broken = watch(
        encoded(kind, LONG_FRAMES), fps=5.0, change=lambda n, data: None if n in lost else data
    )
    truth = every_picture(kind, LONG_FRAMES)
    zero = min(truth)
    back = zero + (325 if gop == 25 else 350) / RATE
    assert min(likeness(still, truth[at]) for at, still in broken.stills.items()) >= SAME
    dark = [at for at in broken.stills if zero + 305 / RATE < at < back - 0.01]
    assert not dark
    assert nearest(list(broken.stills), back) < 0.01
    assert all("next keyframe" in reason for reason in broken.left_out.values())
    assert min(broken.left_out) == 305 / RATE
    assert len(broken.after(back)) >= 5 * (LONG_FRAMES / RATE - (back - zero)) - 1


@pytest.mark.parametrize("kind", [replace(H264, gop=50), replace(H265, gop=50)], ids=str)
def test_damage_within_what_is_held_is_found_where_a_still_is_due(kind: VideoKind) -> None:
    def garble(number: int, data: bytes) -> bytes:
        if number not in (306, 307):
            return data
        draw = random.Random(number)
        return data[:60] + bytes(draw.randrange(256) for _ in data[60:])

    broken = watch(encoded(kind, LONG_FRAMES), fps=2.0, change=garble)
    full = watch(encoded(kind, LONG_FRAMES), fps=1000.0, change=garble, decodes_all=True)
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
def test_no_damage_shows_what_full_decoding_does_not_show(kind: VideoKind, seed: int) -> None:
    draw = random.Random(seed)
    fates = {
        n: draw.choice(("lost", "garbled", "cut")) for n in draw.sample(range(60, LONG_FRAMES), 6)
    }

    def damage(number: int, data: bytes) -> bytes | None:
        fate = fates.get(number, "whole")
        if fate == "lost" and kind.codec == "libx264":  # of H.265, RTP tells it
            return None
        noise = random.Random(number)
        place = noise.randrange(len(data) // 2, len(data)) if data else 0
        if fate == "garbled":
            return data[:place] + bytes(noise.randrange(256) for _ in data[place:])
        return data[:place] if fate == "cut" else data

    lazy = watch(encoded(kind, LONG_FRAMES), fps=2.0, change=damage)
    full = watch(encoded(kind, LONG_FRAMES), fps=1000.0, change=damage, decodes_all=True)
    assert len(lazy.stills) > 10
    for at, still in lazy.stills.items():
        assert likeness(still, full.stills[at]) >= SAME


def test_a_stream_that_turns_to_b_frames_is_decoded_as_it_comes() -> None:
    plain, other = packets(H264, 200), packets(replace(H264, b_frames=2), 200)
    lazy = LazyDecoder(decoder := VideoDecoder(opened(H264, 200)), decodes_all=False)
    held = [lazy.take(packet) is None for packet in plain]
    assert sum(held) == 175
    assert not held[0] and held[-1]
    shift = (plain[-1].pts or 0) + 3600
    pictures = 0
    for packet in other:
        packet.pts = (packet.pts or 0) + shift
        pictures += len(lazy.take(packet) or ())
    assert pictures > 150
    assert decoder.is_undamaged


def test_what_is_held_is_bounded() -> None:
    """Nobody asks for a picture: what is held is decoded to make room, and is not damaged."""
    lazy = LazyDecoder(decoder := VideoDecoder(opened(replace(H264, gop=200), 600)))
    most, sizes = 0, 0
    for packet in packets(replace(H264, gop=200), 600):
        larger = grown(packet, MAX_BUFFERED_BYTES // 40)
        sizes += larger.size
        lazy.take(larger)
        most = max(most, lazy.buffered_bytes)
    assert sizes > 5 * MAX_BUFFERED_BYTES
    assert MAX_BUFFERED_BYTES / 2 < most <= MAX_BUFFERED_BYTES
    assert decoder.is_undamaged and decoder.picture_count > 500


def grown(packet: "Packet[VideoStream]", size: int) -> "Packet[VideoStream]":
    """Return the packet with so much filler data behind it (ITU-T H.264, 7.3.2.7)."""
    filler = b"\0\0\1\x0c" + b"\xff" * size + b"\x80"
    return with_data(packet, bytes(packet) + filler)


def test_b_frames_that_are_stamped_as_if_there_were_none_are_found_out() -> None:
    """Only the pictures show it: those that come are not those that were asked for."""
    lazy = LazyDecoder(VideoDecoder(opened(H264, 200)))
    plain, other = packets(H264, 50), packets(replace(H264, b_frames=2), 200)
    assert [lazy.take(packet) for packet in plain][-1] is None
    asked, pictures = list[DecodedPicture | None](), 0
    for number, packet in enumerate(other):
        packet.pts = (plain[-1].pts or 0) + 3600 * (number + 1)
        found = lazy.take(packet)
        if found is not None:
            pictures += len(found)
        elif number % 12 == 6:
            asked.append(lazy.decode())
    assert asked == [None]
    assert pictures > 180

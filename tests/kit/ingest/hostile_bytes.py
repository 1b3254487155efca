"""Bytes of cameras as RTP packets, and what noise, faulty firmware or malice makes of them."""

import base64
import random
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_START = re.compile(b"\x00\x00\x01")
_MAX_PAYLOAD = 1200
_SIZES = (0, 1, 2, 15, 119, 255, 1023, 4095, 65535, 2**20, 2**31 - 2)

PictureUnits = list[bytes]
"""The NAL units of one picture, or its one JPEG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementaryClip:
    """A codec by the name that RTP gives it, and its pictures."""

    codec: str
    units: list[PictureUnits]

    @property
    def payload_type(self) -> int:
        return 26 if self.codec == "JPEG" else 96


def split_stream(codec: str, data: bytes) -> ElementaryClip:
    """Split an elementary stream with one slice a picture."""
    if codec == "JPEG":
        return ElementaryClip(
            codec=codec, units=[[b"\xff\xd8" + each] for each in data.split(b"\xff\xd8")[1:]]
        )
    nals = [each.rstrip(b"\x00") for each in _START.split(data)[1:]]
    units: list[PictureUnits] = [[]]
    for nal in nals:
        units[-1].append(nal)
        if is_picture(codec, nal):
            units.append([])
    return ElementaryClip(codec=codec, units=[unit for unit in units if unit])


def is_picture(codec: str, nal: bytes) -> bool:
    """Return whether a NAL unit holds a part of a picture."""
    return 1 <= nal[0] & 31 <= 5 if codec == "H264" else nal[0] >> 1 & 63 <= 31


def parameter_sets(clip: ElementaryClip) -> list[bytes]:
    """Return what the description of a stream carries beside its name."""
    return [nal for nal in clip.units[0] if not is_picture(clip.codec, nal)]


def fmtp(clip: ElementaryClip, sets: Sequence[bytes]) -> str:
    """Return the line of a description that carries parameter sets (RFC 6184, 7798)."""
    coded = [base64.b64encode(each).decode() for each in sets]
    if clip.codec == "H264":
        return f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={','.join(coded)}"
    names = ("vps", "sps", "pps")
    return "a=fmtp:96 " + ";".join(
        f"sprop-{name}={each}" for name, each in zip(names, coded, strict=False)
    )


def rtp_packets(clip: ElementaryClip, fps: int = 10) -> list[bytes]:
    """Return a clip as RTP packets."""
    found: list[bytes] = []
    for number, unit in enumerate(clip.units):
        bodies = [body for part in unit for body in _bodies(clip.codec, part)]
        for place, body in enumerate(bodies):
            kind = clip.payload_type | (0x80 if place == len(bodies) - 1 else 0)
            stamp = (1000 + number * 90000 // fps) & 0xFFFFFFFF
            found.append(struct.pack(">BBHII", 0x80, kind, len(found) & 0xFFFF, stamp, 77) + body)
    return found


def _bodies(codec: str, part: bytes) -> list[bytes]:
    if codec == "JPEG":
        return _jpeg_bodies(part)
    if len(part) <= _MAX_PAYLOAD:
        return [part]
    head = 1 if codec == "H264" else 2
    pieces = [part[at : at + _MAX_PAYLOAD] for at in range(head, len(part), _MAX_PAYLOAD)]
    ends = [0] * len(pieces)
    ends[0] |= 0x80
    ends[-1] |= 0x40
    return [_fragment(codec, part, end) + each for end, each in zip(ends, pieces, strict=True)]


def _fragment(codec: str, part: bytes, end: int) -> bytes:
    if codec == "H264":
        return bytes([part[0] & 0xE0 | 28, end | part[0] & 31])
    return bytes([part[0] & 0x81 | 49 << 1, part[1], end | part[0] >> 1 & 63])


def _jpeg_bodies(jpeg: bytes) -> list[bytes]:
    """Return a baseline JPEG with standard Huffman tables as RFC 2435 asks, as far as it is one."""
    tables = b"".join(_segment(jpeg, 0xDB)[1:65] for _ in range(2))
    size = _segment(jpeg, 0xC0)
    height, width = struct.unpack(">HH", size[1:5]) if len(size) > 5 else (16, 16)
    scan = jpeg.partition(b"\xff\xda")[2][12:]
    found: list[bytes] = []
    for at in range(0, max(1, len(scan)), _MAX_PAYLOAD):
        head = struct.pack(">IBBBB", at & 0xFFFFFF, 1, 255, width // 8 & 255, height // 8 & 255)
        more = struct.pack(">BBH", 0, 0, len(tables)) + tables if at == 0 else b""
        found.append(head + more + scan[at : at + _MAX_PAYLOAD])
    return found


def _segment(jpeg: bytes, marker: int) -> bytes:
    at = jpeg.find(bytes([0xFF, marker]))
    return jpeg[at + 4 : at + 4 + int.from_bytes(jpeg[at + 2 : at + 4], "big")] if at >= 0 else b""


def flip_bits(rng: random.Random, data: bytes, most: int = 20) -> bytes:
    """Flip some bits."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, most) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: random.Random, data: bytes) -> bytes:
    """Leave the end off."""
    return data[: rng.randrange(len(data) + 1)]


def noise(rng: random.Random, most: int = 2000) -> bytes:
    """Return bytes without a meaning."""
    return rng.randbytes(rng.randint(0, most))


def _change_part(
    change: Callable[[random.Random, bytes], bytes], rng: random.Random, units: list[PictureUnits]
) -> None:
    unit = rng.choice(units)
    at = rng.randrange(len(unit))
    unit[at] = change(rng, unit[at])


def _double(rng: random.Random, units: list[PictureUnits]) -> None:
    unit = rng.choice(units)
    unit.insert(rng.randrange(len(unit)), rng.choice(unit))


def _drop(rng: random.Random, units: list[PictureUnits]) -> None:
    unit = rng.choice(units)
    if len(unit) > 1:
        del unit[rng.randrange(len(unit))]
    elif len(units) > 1:
        units.remove(unit)


def _reorder(rng: random.Random, units: list[PictureUnits]) -> None:
    one, other = rng.randrange(len(units)), rng.randrange(len(units))
    units[one], units[other] = units[other], units[one]


def _resize(rng: random.Random, units: list[PictureUnits]) -> None:
    """Say another size: parameter sets of our own, or the two bytes of each in a JPEG."""
    for unit in units[rng.randrange(len(units)) :]:
        for at, part in enumerate(unit):
            if part[:2] == b"\xff\xd8":
                frame = part.find(b"\xff\xc0")
                unit[at] = part[: frame + 5] + rng.randbytes(4) + part[frame + 9 :]
            elif part and part[0] & 31 == 7:
                unit[at] = sps(rng.choice(_SIZES), rng.choice(_SIZES), rng.choice(_SIZES))


def _insert_unknown_unit(rng: random.Random, units: list[PictureUnits]) -> None:
    """Put in a unit of a kind that nobody sent, with noise behind it."""
    rng.choice(units).insert(0, bytes([rng.randrange(256)]) + noise(rng))


def sps(width: int, height: int, references: int) -> bytes:
    """Return an H.264 sequence parameter set (7.3.2.1.1), sizes in macroblocks less one."""
    bits = "".join(map(_exp_golomb, (0, 0, 2, references))) + "0"
    bits += _exp_golomb(width) + _exp_golomb(height) + "11001"
    bits += "0" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big")
    escaped = re.sub(b"\x00\x00([\x00-\x03])", lambda each: b"\x00\x00\x03" + each[1], body)
    return b"\x67\x42\xc0\x1e" + escaped


def _exp_golomb(value: int) -> str:
    digits = f"{value + 1:b}"
    return "0" * (len(digits) - 1) + digits


def mutate_clip(rng: random.Random, clip: ElementaryClip) -> ElementaryClip:
    """Return a clip with one to six things wrong in its units."""
    units = [list(unit) for unit in clip.units]
    changes: list[Callable[[random.Random, list[PictureUnits]], None]] = [
        lambda c, u: _change_part(flip_bits, c, u),
        lambda c, u: _change_part(truncate, c, u),
        lambda c, u: _change_part(lambda c, d: noise(c, len(d) + 1) or b"\x00", c, u),
        _double,
        _drop,
        _reorder,
        _resize,
        _insert_unknown_unit,
    ]
    for _ in range(rng.randint(1, 6)):
        rng.choice(changes)(rng, units)
    return ElementaryClip(
        codec=clip.codec, units=[[part or b"\x00" for part in unit] for unit in units]
    )


def mutate_packets(rng: random.Random, found: list[bytes]) -> list[bytes]:
    """Return RTP packets with one to eight headers, lengths or places wrong."""
    found = list(found)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(found))
        kind = rng.randrange(8)
        if kind == 0:
            found.insert(at, found[rng.randrange(len(found))])
        elif kind == 1 and len(found) > 1:
            del found[at]
        elif kind == 2:
            found[at] = truncate(rng, found[at])
        elif kind == 3:
            found[at] = flip_bits(rng, found[at][:12], 4) + found[at][12:]
        elif kind == 4:  # padding, extension and sources that are not there
            found[at] = bytes([0x80 | rng.randrange(64)]) + found[at][1:]
        elif kind == 5:
            end = rng.randint(at + 1, len(found))
            found[at:end] = [_numbered(each, rng.getrandbits(16)) for each in found[at:end]]
        elif kind == 6:
            end = rng.randint(at + 1, len(found))
            later = rng.getrandbits(32)
            found[at:end] = [_stamped(each, later) for each in found[at:end]]
        else:
            end = min(len(found), at + rng.randint(2, 20))
            found[at:end] = rng.sample(found[at:end], end - at)
    return found


def _numbered(packet: bytes, number: int) -> bytes:
    return packet[:2] + struct.pack(">H", number) + packet[4:] if len(packet) > 4 else packet


def _stamped(packet: bytes, stamp: int) -> bytes:
    return packet[:4] + struct.pack(">I", stamp) + packet[8:] if len(packet) > 8 else packet


def rtcp_packet(rng: random.Random) -> bytes:
    """Return an RTCP packet: a sender report with any time, a goodbye, or noise."""
    kind = rng.choice((200, 200, 200, 201, 202, 203, 204, rng.randrange(256)))
    words = rng.choice((6, 6, 6, 1, 0, 65535))
    head = struct.pack(">BBH", 0x80 | rng.randrange(32), kind, words)
    return head + rng.randbytes(rng.choice((24, 24, 4, 0, 400)))

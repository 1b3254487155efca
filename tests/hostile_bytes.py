"""Bytes of cameras as RTP packets, and what noise, faulty firmware or malice makes of them."""

import base64
import random
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_START = re.compile(b"\x00\x00\x01")
_MOST = 1200
_SIZES = (0, 1, 2, 15, 119, 255, 1023, 4095, 65535, 2**20, 2**31 - 2)

Unit = list[bytes]
"""The NAL units of one picture, or its one JPEG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A codec by the name that RTP gives it, and its pictures."""

    codec: str
    units: list[Unit]

    @property
    def payload_type(self) -> int:
        return 26 if self.codec == "JPEG" else 96


def split(codec: str, data: bytes) -> Clip:
    """Split an elementary stream with one slice a picture."""
    if codec == "JPEG":
        return Clip(
            codec=codec, units=[[b"\xff\xd8" + each] for each in data.split(b"\xff\xd8")[1:]]
        )
    nals = [each.rstrip(b"\x00") for each in _START.split(data)[1:]]
    units: list[Unit] = [[]]
    for nal in nals:
        units[-1].append(nal)
        if is_picture(codec, nal):
            units.append([])
    return Clip(codec=codec, units=[unit for unit in units if unit])


def is_picture(codec: str, nal: bytes) -> bool:
    """Return whether a NAL unit holds a part of a picture."""
    return 1 <= nal[0] & 31 <= 5 if codec == "H264" else nal[0] >> 1 & 63 <= 31


def parameter_sets(clip: Clip) -> list[bytes]:
    """Return what the description of a stream carries beside its name."""
    return [nal for nal in clip.units[0] if not is_picture(clip.codec, nal)]


def fmtp(clip: Clip, sets: Sequence[bytes]) -> str:
    """Return the line of a description that carries parameter sets (RFC 6184, 7798)."""
    coded = [base64.b64encode(each).decode() for each in sets]
    if clip.codec == "H264":
        return f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={','.join(coded)}"
    names = ("vps", "sps", "pps")
    return "a=fmtp:96 " + ";".join(
        f"sprop-{name}={each}" for name, each in zip(names, coded, strict=False)
    )


def packets(clip: Clip, fps: int = 10) -> list[bytes]:
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
    if len(part) <= _MOST:
        return [part]
    head = 1 if codec == "H264" else 2
    pieces = [part[at : at + _MOST] for at in range(head, len(part), _MOST)]
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
    for at in range(0, max(1, len(scan)), _MOST):
        head = struct.pack(">IBBBB", at & 0xFFFFFF, 1, 255, width // 8 & 255, height // 8 & 255)
        more = struct.pack(">BBH", 0, 0, len(tables)) + tables if at == 0 else b""
        found.append(head + more + scan[at : at + _MOST])
    return found


def _segment(jpeg: bytes, marker: int) -> bytes:
    at = jpeg.find(bytes([0xFF, marker]))
    return jpeg[at + 4 : at + 4 + int.from_bytes(jpeg[at + 2 : at + 4], "big")] if at >= 0 else b""


def flipped(chance: random.Random, data: bytes, most: int = 20) -> bytes:
    """Flip some bits."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, most) if changed else 0):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(chance: random.Random, data: bytes) -> bytes:
    """Leave the end off."""
    return data[: chance.randrange(len(data) + 1)]


def noise(chance: random.Random, most: int = 2000) -> bytes:
    """Return bytes without a meaning."""
    return chance.randbytes(chance.randint(0, most))


def _change_part(
    change: Callable[[random.Random, bytes], bytes], chance: random.Random, units: list[Unit]
) -> None:
    unit = chance.choice(units)
    at = chance.randrange(len(unit))
    unit[at] = change(chance, unit[at])


def _double(chance: random.Random, units: list[Unit]) -> None:
    unit = chance.choice(units)
    unit.insert(chance.randrange(len(unit)), chance.choice(unit))


def _drop(chance: random.Random, units: list[Unit]) -> None:
    unit = chance.choice(units)
    if len(unit) > 1:
        del unit[chance.randrange(len(unit))]
    elif len(units) > 1:
        units.remove(unit)


def _reorder(chance: random.Random, units: list[Unit]) -> None:
    one, other = chance.randrange(len(units)), chance.randrange(len(units))
    units[one], units[other] = units[other], units[one]


def _resize(chance: random.Random, units: list[Unit]) -> None:
    """Say another size: parameter sets of our own, or the two bytes of each in a JPEG."""
    for unit in units[chance.randrange(len(units)) :]:
        for at, part in enumerate(unit):
            if part[:2] == b"\xff\xd8":
                frame = part.find(b"\xff\xc0")
                unit[at] = part[: frame + 5] + chance.randbytes(4) + part[frame + 9 :]
            elif part and part[0] & 31 == 7:
                unit[at] = sps(chance.choice(_SIZES), chance.choice(_SIZES), chance.choice(_SIZES))


def _alien(chance: random.Random, units: list[Unit]) -> None:
    """Put in a unit of a kind that nobody sent, with noise behind it."""
    chance.choice(units).insert(0, bytes([chance.randrange(256)]) + noise(chance))


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


def mutated(chance: random.Random, clip: Clip) -> Clip:
    """Return a clip with one to six things wrong in its units."""
    units = [list(unit) for unit in clip.units]
    changes: list[Callable[[random.Random, list[Unit]], None]] = [
        lambda c, u: _change_part(flipped, c, u),
        lambda c, u: _change_part(cut, c, u),
        lambda c, u: _change_part(lambda c, d: noise(c, len(d) + 1) or b"\x00", c, u),
        _double,
        _drop,
        _reorder,
        _resize,
        _alien,
    ]
    for _ in range(chance.randint(1, 6)):
        chance.choice(changes)(chance, units)
    return Clip(codec=clip.codec, units=[[part or b"\x00" for part in unit] for unit in units])


def mutated_packets(chance: random.Random, found: list[bytes]) -> list[bytes]:
    """Return RTP packets with one to eight headers, lengths or places wrong."""
    found = list(found)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(found))
        kind = chance.randrange(8)
        if kind == 0:
            found.insert(at, found[chance.randrange(len(found))])
        elif kind == 1 and len(found) > 1:
            del found[at]
        elif kind == 2:
            found[at] = cut(chance, found[at])
        elif kind == 3:
            found[at] = flipped(chance, found[at][:12], 4) + found[at][12:]
        elif kind == 4:  # padding, extension and sources that are not there
            found[at] = bytes([0x80 | chance.randrange(64)]) + found[at][1:]
        elif kind == 5:
            end = chance.randint(at + 1, len(found))
            found[at:end] = [_numbered(each, chance.getrandbits(16)) for each in found[at:end]]
        elif kind == 6:
            end = chance.randint(at + 1, len(found))
            later = chance.getrandbits(32)
            found[at:end] = [_stamped(each, later) for each in found[at:end]]
        else:
            end = min(len(found), at + chance.randint(2, 20))
            found[at:end] = chance.sample(found[at:end], end - at)
    return found


def _numbered(packet: bytes, number: int) -> bytes:
    return packet[:2] + struct.pack(">H", number) + packet[4:] if len(packet) > 4 else packet


def _stamped(packet: bytes, stamp: int) -> bytes:
    return packet[:4] + struct.pack(">I", stamp) + packet[8:] if len(packet) > 8 else packet


def report(chance: random.Random) -> bytes:
    """Return an RTCP packet: a sender report with any time, a goodbye, or noise."""
    kind = chance.choice((200, 200, 200, 201, 202, 203, 204, chance.randrange(256)))
    words = chance.choice((6, 6, 6, 1, 0, 65535))
    head = struct.pack(">BBH", 0x80 | chance.randrange(32), kind, words)
    return head + chance.randbytes(chance.choice((24, 24, 4, 0, 400)))

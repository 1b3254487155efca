"""Detect lost pictures from H.264's own numbers: FFmpeg decodes on without an error.

Each picture carries a `frame_num`, which goes up by one after each reference picture (ITU-T H.264,
7.4.3). If it goes up by more, the next pictures refer to a missing one.
"""

from dataclasses import dataclass

from ingest.decoding.nal_units import nal_prefix, nal_starts

_SLICE, _IDR, _SPS = 1, 5, 7
_CHROMA_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""The profiles whose parameter set has a chroma format (7.3.2.1.1)."""
_SLICE_HEADER_BYTES = 64
"""Bytes that contain the fields read from a slice, escapes included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbering:
    """How a stream numbers its pictures; with `allows_gaps` a gap is no loss."""

    bits: int
    has_separate_planes: bool
    allows_gaps: bool


class FrameNumbers:
    """Follow the picture numbers of one H.264 stream, in decoding order.

    `extradata` comes from the container: Annex B, or avcC (ISO 14496-15, 5.3.3).
    """

    def __init__(self, extradata: bytes = b"") -> None:
        self._length_size = 0
        self._numbering: _Numbering | None = None
        self._last_number: int | None = None
        self.is_idr = False
        """Whether the last access unit is a keyframe that ends all earlier references."""
        if extradata[:1] == b"\x01" and len(extradata) > 8:
            self._length_size = (extradata[4] & 3) + 1
            size = int.from_bytes(extradata[6:8], "big")
            self._update_numbering(extradata[8 : 8 + size])
        else:
            self._observe_unit(extradata)

    def observe(self, unit: bytes) -> bool:
        """Read an access unit; return whether reference pictures before it are missing."""
        self.is_idr = False
        try:
            return self._observe_unit(unit)
        except IndexError:  # truncated: FFmpeg itself reports the damage
            self.is_idr = False
            return False

    def _observe_unit(self, unit: bytes) -> bool:
        size = self._length_size
        for first in nal_starts(unit, size):
            kind = unit[first] & 31
            if kind == _SPS:
                self._update_numbering(nal_prefix(unit, first, size, max_bytes=len(unit)))
            elif kind in (_SLICE, _IDR) and self._numbering is not None:
                self.is_idr = kind == _IDR
                header = nal_prefix(unit, first, size, max_bytes=_SLICE_HEADER_BYTES)
                return self._observe_slice(header, kind, self._numbering)
        return False

    def _observe_slice(self, header: bytes, kind: int, numbering: _Numbering) -> bool:
        number = _parse_frame_num(header, numbering)
        last, modulus = self._last_number, 1 << numbering.bits
        is_referred_to = bool(header[0] & 0x60)
        if is_referred_to or last is None:
            self._last_number = number
        if kind == _IDR or last is None or numbering.allows_gaps:
            return False
        return number not in (last, (last + 1) % modulus)

    def _update_numbering(self, nal: bytes) -> None:
        numbering = _parse_numbering(nal)
        if numbering != self._numbering:
            self._numbering, self._last_number = numbering, None


class _BitReader:
    """Read the fields of a NAL unit after its first byte; raises IndexError at its end."""

    def __init__(self, nal: bytes) -> None:
        plain = nal.replace(b"\x00\x00\x03", b"\x00\x00")[1:]
        self._count = 8 * len(plain)
        self._value = int.from_bytes(plain, "big")
        self._position = 0

    def read(self, bits: int) -> int:
        self._position += bits
        if self._position > self._count:
            raise IndexError
        return self._value >> (self._count - self._position) & ((1 << bits) - 1)

    def read_unsigned(self) -> int:
        """Read an Exp-Golomb code (9.1)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)

    def read_signed(self) -> int:
        code = self.read_unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _parse_frame_num(header: bytes, numbering: _Numbering) -> int:
    bits = _BitReader(header)
    for _ in range(3):  # first block, slice type, picture parameter set
        bits.read_unsigned()
    if numbering.has_separate_planes:
        bits.read(2)
    return bits.read(numbering.bits)


def _parse_numbering(nal: bytes) -> _Numbering | None:
    """Read a sequence parameter set (7.3.2.1.1); return None if it is truncated."""
    try:
        return _read_numbering(_BitReader(nal))
    except IndexError:
        return None


def _read_numbering(bits: _BitReader) -> _Numbering:
    profile = bits.read(8)
    bits.read(16)
    bits.read_unsigned()
    has_planes = profile in _CHROMA_PROFILES and _skip_chroma(bits)
    width = bits.read_unsigned() + 4
    _skip_order_count(bits)
    bits.read_unsigned()  # the most reference pictures
    allows_gaps = bool(bits.read(1))
    return _Numbering(bits=width, has_separate_planes=has_planes, allows_gaps=allows_gaps)


def _skip_chroma(bits: _BitReader) -> bool:
    """Skip the chroma format; return whether its planes are coded separately."""
    chroma = bits.read_unsigned()
    has_planes = chroma == 3 and bool(bits.read(1))
    bits.read_unsigned()
    bits.read_unsigned()
    bits.read(1)
    if bits.read(1):
        for number in range(12 if chroma == 3 else 8):
            if bits.read(1):
                _skip_scaling_list(bits, 16 if number < 6 else 64)
    return has_planes


def _skip_scaling_list(bits: _BitReader, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.read_signed()) % 256
        last = following or last


def _skip_order_count(bits: _BitReader) -> None:
    """Skip the fields about display order."""
    kind = bits.read_unsigned()
    if kind == 0:
        bits.read_unsigned()
    elif kind == 1:
        bits.read(1)
        bits.read_signed()
        bits.read_signed()
        for _ in range(bits.read_unsigned()):
            bits.read_signed()

"""See from H.264 itself that pictures were lost: FFmpeg decodes on without a word.

Each picture carries a `frame_num`, which goes up by one after each picture that others refer to
(ITU-T H.264, 7.4.3). Where it goes up by more, what comes is drawn on the wrong ground.
"""

from dataclasses import dataclass

from ingest.nal_units import cut, starts

_SLICE, _IDR, _SPS = 1, 5, 7
_EXTENDED = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""The profiles whose parameter set has a chroma format (7.3.2.1.1)."""
_HEADER = 64
"""Bytes that hold the fields which are read of a slice, escapes included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbering:
    """How a stream numbers its pictures: in so many bits; `may_skip`: gaps are no loss."""

    bits: int
    has_planes: bool
    may_skip: bool


class FrameNumbers:
    """Follow the numbers of the pictures of one H.264 stream, in the order of decoding.

    `extradata` is what the container says of the stream: Annex B, or avcC (ISO 14496-15, 5.3.3).
    """

    def __init__(self, extradata: bytes = b"") -> None:
        self._length = 0
        self._numbering: _Numbering | None = None
        self._last: int | None = None
        self.is_idr = False
        """Whether the last access unit is a keyframe that ends all references to before it."""
        if extradata[:1] == b"\x01" and len(extradata) > 8:
            self._length = (extradata[4] & 3) + 1
            size = int.from_bytes(extradata[6:8], "big")
            self._learn(extradata[8 : 8 + size])
        else:
            self._follow(extradata)

    def misses(self, unit: bytes) -> bool:
        """Return whether pictures that others refer to are missing before this access unit."""
        self.is_idr = False
        try:
            return self._follow(unit)
        except IndexError:  # cut off: FFmpeg tells of damage by itself
            self.is_idr = False
            return False

    def _follow(self, unit: bytes) -> bool:
        for first in starts(unit, self._length):
            kind = unit[first] & 31
            if kind == _SPS:
                self._learn(cut(unit, first, self._length, most=len(unit)))
            elif kind in (_SLICE, _IDR) and self._numbering is not None:
                self.is_idr = kind == _IDR
                head = cut(unit, first, self._length, most=_HEADER)
                return self._misses(head, kind, self._numbering)
        return False

    def _misses(self, head: bytes, kind: int, numbering: _Numbering) -> bool:
        number = _frame_num(head, numbering)
        last, most = self._last, 1 << numbering.bits
        is_referred_to = bool(head[0] & 0x60)
        if is_referred_to or last is None:
            self._last = number
        if kind == _IDR or last is None or numbering.may_skip:
            return False
        return number not in (last, (last + 1) % most)

    def _learn(self, nal: bytes) -> None:
        numbering = _numbering(nal)
        if numbering != self._numbering:
            self._numbering, self._last = numbering, None


class _Bits:
    """Read the fields of a NAL unit behind its first byte; raises IndexError at its end."""

    def __init__(self, nal: bytes) -> None:
        plain = nal.replace(b"\x00\x00\x03", b"\x00\x00")[1:]
        self._count = 8 * len(plain)
        self._value = int.from_bytes(plain, "big")
        self._at = 0

    def take(self, bits: int) -> int:
        self._at += bits
        if self._at > self._count:
            raise IndexError
        return self._value >> (self._count - self._at) & ((1 << bits) - 1)

    def unsigned(self) -> int:
        """Read an Exp-Golomb code (9.1)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _frame_num(head: bytes, numbering: _Numbering) -> int:
    bits = _Bits(head)
    for _ in range(3):  # the first block, the kind of slice, the picture parameter set
        bits.unsigned()
    if numbering.has_planes:
        bits.take(2)
    return bits.take(numbering.bits)


def _numbering(nal: bytes) -> _Numbering | None:
    """Read a sequence parameter set (7.3.2.1.1); None for one that is cut off."""
    try:
        return _read_numbering(_Bits(nal))
    except IndexError:
        return None


def _read_numbering(bits: _Bits) -> _Numbering:
    profile = bits.take(8)
    bits.take(16)
    bits.unsigned()
    has_planes = profile in _EXTENDED and _skip_chroma(bits)
    width = bits.unsigned() + 4
    _skip_order(bits)
    bits.unsigned()  # how many pictures are referred to at most
    return _Numbering(bits=width, has_planes=has_planes, may_skip=bool(bits.take(1)))


def _skip_chroma(bits: _Bits) -> bool:
    """Skip the chroma format; return whether its planes are coded apart."""
    chroma = bits.unsigned()
    has_planes = chroma == 3 and bool(bits.take(1))
    bits.unsigned()
    bits.unsigned()
    bits.take(1)
    if bits.take(1):
        for number in range(12 if chroma == 3 else 8):
            if bits.take(1):
                _skip_scaling(bits, 16 if number < 6 else 64)
    return has_planes


def _skip_scaling(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


def _skip_order(bits: _Bits) -> None:
    """Skip how the pictures are put into the order in which they are shown."""
    kind = bits.unsigned()
    if kind == 0:
        bits.unsigned()
    elif kind == 1:
        bits.take(1)
        bits.signed()
        bits.signed()
        for _ in range(bits.unsigned()):
            bits.signed()

"""Where the NAL units of an access unit are.

`length` is of how many bytes the size before each unit is (ISO 14496-15); 0 for start codes
(Annex B of H.264 and H.265).
"""

from collections.abc import Iterator

_START = b"\x00\x00\x01"


def starts(unit: bytes, length: int) -> Iterator[int]:
    """Yield where each NAL unit begins that has a byte at least."""
    at = length or _behind_start(unit, 0)
    while at < len(unit):
        if not length or _end_of(unit, at, length) > at:
            yield at
        at = _end_of(unit, at, length) + length if length else _behind_start(unit, at)


def cut(unit: bytes, first: int, length: int, most: int) -> bytes:
    """Return the first `most` bytes of the NAL unit that begins there, all where it has fewer."""
    if length:
        end = _end_of(unit, first, length)
    else:
        end = unit.find(_START, first, first + most + len(_START))
    return unit[first : first + most if end < 0 else min(first + most, end)]


def _end_of(unit: bytes, first: int, length: int) -> int:
    return first + int.from_bytes(unit[first - length : first], "big")


def _behind_start(unit: bytes, at: int) -> int:
    """Return what is behind the next start code; the end of the access unit where there is none."""
    found = unit.find(_START, at)
    return len(unit) if found < 0 else found + len(_START)

"""Where the NAL units of an access unit are.

`length` is of how many bytes the size before each unit is (ISO 14496-15); 0 for start codes
(Annex B of H.264 and H.265).
"""

from collections.abc import Iterator

_START_CODE = b"\x00\x00\x01"


def nal_starts(unit: bytes, length_size: int) -> Iterator[int]:
    """Yield where each NAL unit begins that has a byte at least."""
    at = length_size or _after_start_code(unit, 0)
    while at < len(unit):
        if not length_size or _nal_end(unit, at, length_size) > at:
            yield at
        at = (
            _nal_end(unit, at, length_size) + length_size
            if length_size
            else _after_start_code(unit, at)
        )


def nal_prefix(unit: bytes, first: int, length_size: int, max_bytes: int) -> bytes:
    """Return the first `most` bytes of the NAL unit that begins there, all where it has fewer."""
    if length_size:
        end = _nal_end(unit, first, length_size)
    else:
        end = unit.find(_START_CODE, first, first + max_bytes + len(_START_CODE))
    return unit[first : first + max_bytes if end < 0 else min(first + max_bytes, end)]


def _nal_end(unit: bytes, first: int, length_size: int) -> int:
    return first + int.from_bytes(unit[first - length_size : first], "big")


def _after_start_code(unit: bytes, at: int) -> int:
    """Return what is behind the next start code; the end of the access unit where there is none."""
    found = unit.find(_START_CODE, at)
    return len(unit) if found < 0 else found + len(_START_CODE)

"""Find the NAL units of an access unit.

`length_size` is the number of bytes of the length field before each unit (ISO 14496-15); 0 for
start codes (Annex B of H.264 and H.265).
"""

from collections.abc import Iterator

_START_CODE = b"\x00\x00\x01"


def nal_starts(unit: bytes, length_size: int) -> Iterator[int]:
    """Yield the start of each NAL unit that is not empty."""
    at = length_size or _after_start_code(unit, 0)
    while at < len(unit):
        if not length_size or _nal_end(unit, at, length_size) > at:
            yield at
        if length_size:
            at = _nal_end(unit, at, length_size) + length_size
        else:
            at = _after_start_code(unit, at)


def nal_prefix(unit: bytes, first: int, length_size: int, max_bytes: int) -> bytes:
    """Return the NAL unit that starts at `first`, its first `max_bytes` bytes at most."""
    if length_size:
        end = _nal_end(unit, first, length_size)
    else:
        end = unit.find(_START_CODE, first, first + max_bytes + len(_START_CODE))
    return unit[first : first + max_bytes if end < 0 else min(first + max_bytes, end)]


def _nal_end(unit: bytes, first: int, length_size: int) -> int:
    return first + int.from_bytes(unit[first - length_size : first], "big")


def _after_start_code(unit: bytes, at: int) -> int:
    """Return the index after the next start code; the end of the unit if there is none."""
    found = unit.find(_START_CODE, at)
    return len(unit) if found < 0 else found + len(_START_CODE)

"""See from H.265 itself which pictures begin anew (ITU-T H.265, 7.4.2.2)."""

_START = b"\x00\x00\x01"
_ANEW = range(16, 22)
"""BLA, IDR and CRA pictures: what follows them in both orders refers to nothing before them."""
_PICTURES = 32
"""NAL units of a smaller type are of pictures."""


class HevcUnits:
    """Read the access units of one H.265 stream.

    `extradata` is what the container says of it: Annex B, or hvcC (ISO 14496-15, 8.3.3).
    """

    def __init__(self, extradata: bytes = b"") -> None:
        has_lengths = extradata[:1] == b"\x01" and len(extradata) > 22
        self._length = (extradata[21] & 3) + 1 if has_lengths else 0

    def begin_anew(self, unit: bytes) -> bool:
        """Return whether an access unit is such a picture; its leading pictures may yet follow."""
        return self._kind(unit) in _ANEW

    def _kind(self, unit: bytes) -> int | None:
        """Return the type of the first NAL unit that is of a picture."""
        at = self._next(unit, 0)
        while at < len(unit):
            kind = unit[at] >> 1 & 63
            if kind < _PICTURES:
                return kind
            at = self._next(unit, at)
        return None

    def _next(self, unit: bytes, at: int) -> int:
        """Return where a NAL unit begins: the first (0), or the one behind that at `at`."""
        if not self._length:
            found = unit.find(_START, at)
            return len(unit) if found < 0 else found + len(_START)
        if not at:
            return self._length
        size = int.from_bytes(unit[at - self._length : at], "big")
        return at + size + self._length

"""Find the random access points of an H.265 stream (ITU-T H.265, 7.4.2.2)."""

from ingest.decoding.nal_units import nal_starts

_RANDOM_ACCESS_TYPES = range(16, 22)
"""BLA, IDR and CRA: pictures after them in both orders refer to none before them."""
_FIRST_NON_PICTURE_TYPE = 32
"""NAL units of a smaller type belong to pictures."""


class HevcUnits:
    """Read the access units of one H.265 stream.

    `extradata` comes from the container: Annex B, or hvcC (ISO 14496-15, 8.3.3).
    """

    def __init__(self, extradata: bytes = b"") -> None:
        has_lengths = extradata[:1] == b"\x01" and len(extradata) > 22
        self._length_size = (extradata[21] & 3) + 1 if has_lengths else 0

    def is_random_access_point(self, unit: bytes) -> bool:
        """Return whether an access unit is one; its leading pictures may still follow."""
        kinds = (unit[first] >> 1 & 63 for first in nal_starts(unit, self._length_size))
        picture = next((kind for kind in kinds if kind < _FIRST_NON_PICTURE_TYPE), None)
        return picture in _RANDOM_ACCESS_TYPES

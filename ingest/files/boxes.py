"""Read the boxes of an mp4 or QuickTime file (ISO/IEC 14496-12, 4.2)."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_FIRST_TYPES = (b"ftyp", b"mdat", b"free", b"skip", b"wide", b"pnot")
_MAX_BOXES = 10_000


def is_unfinished(path: Path) -> bool:
    """Return whether a file has pictures but no index: the recorder did not finish it."""
    try:
        with path.open("rb") as file:
            types = list(_box_types(file))
    except OSError:
        return False
    return bool(types) and types[0] in _FIRST_TYPES and b"mdat" in types and b"moov" not in types


def _box_types(file: BinaryIO) -> Iterator[bytes]:
    """Yield the type of each box; the last one may end after the file."""
    offset = 0
    for _ in range(_MAX_BOXES):
        file.seek(offset)
        header = file.read(16)
        if len(header) < 8:
            return
        yield header[4:8]
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:
            return
        offset += size

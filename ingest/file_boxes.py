"""The boxes that an mp4 or QuickTime file is made of (ISO/IEC 14496-12, 4.2)."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_FIRST = (b"ftyp", b"mdat", b"free", b"skip", b"wide", b"pnot")
_MOST = 10_000


def is_unfinished(path: Path) -> bool:
    """Return whether a file has pictures and no index: the recorder did not come to its end."""
    try:
        with path.open("rb") as file:
            kinds = list(_kinds(file))
    except OSError:
        return False
    return bool(kinds) and kinds[0] in _FIRST and b"mdat" in kinds and b"moov" not in kinds


def _kinds(file: BinaryIO) -> Iterator[bytes]:
    """Yield the kind of each box; one may reach to the end of the file, or beyond it."""
    place = 0
    for _ in range(_MOST):
        file.seek(place)
        head = file.read(16)
        if len(head) < 8:
            return
        yield head[4:8]
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:
            return
        place += size

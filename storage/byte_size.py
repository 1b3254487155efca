"""Sizes as people write them in settings: `512MB`, `1.5GB`, `20GiB`."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_PATTERN = re.compile(r"(\d{1,6}(?:\.\d{1,3})?) ?([kKMGT]i?B)", re.ASCII)
_UNITS = {
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGT", start=1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)},
}


def parse_size(text: object) -> int:
    """Parse `512MB`, `1.5GB` or `20GiB` as bytes; raise ValueError for other text."""
    match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2] not in _UNITS:
        raise ValueError("write a size as 512MB, 1.5GB or 20GiB (units kB MB GB TB, KiB to TiB)")
    return round(float(match[1]) * int(_UNITS[match[2]]))


ByteSize = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]

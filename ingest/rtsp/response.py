"""Parse the head of an RTSP or HTTP response, a status and headers, all of it untrusted.

Data that is no response has the status 0 and no headers.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_STATUS = re.compile(r"^[ \t]*(?:RTSP|HTTP)/\S{1,8}[ \t]+([0-9]{3})\b", re.MULTILINE)
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 (RFC 9110, 5.6.2)
_ITEM = re.compile(rf'({_TOKEN})(?:[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^\s,"]*))?')
_ALGORITHM = re.compile(r"[A-Za-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """An offered log-in (RFC 9110, 11.6.1): its scheme in lower case, and its algorithm.

    The algorithm is as sent; MD5 if none is named (RFC 7616, 3.3), empty if it is not a name.
    """

    scheme: str
    algorithm: str = "MD5"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """The head of a response, from its status line on; without one, the data instead."""

    text: str

    @property
    def status(self) -> int:
        """Return the status; 0 if this is no response."""
        status = _STATUS.match(self.text)
        return int(status[1]) if status else 0

    def header_values(self, header: str) -> Iterator[str]:
        """Yield the values of a header, named in lower case."""
        if not self.status:
            return
        _, *fields = self.text.split("\n")
        for name, _, value in (field.partition(":") for field in fields):
            if name.strip().lower() == header:
                yield value.strip()

    def challenges(self) -> Iterator[list[Challenge]]:
        """Yield the log-ins of each header; one may offer several."""
        for value in self.header_values("www-authenticate"):
            yield list(_parse_challenges(value))

    @property
    def content_length(self) -> int:
        """Return the length of the body in bytes."""
        length = next(self.header_values("content-length"), "")
        return int(length) if re.fullmatch("[0-9]{1,9}", length) else 0


def parse_head(data: bytes) -> ResponseHead:
    """Return the head in the data, without the rest of the last response before it."""
    text = data.replace(b"\r", b"").decode("latin-1")
    status = _STATUS.search(text)
    return ResponseHead(text=(text[status.start() :] if status else text).partition("\n\n")[0])


def _parse_challenges(field: str) -> Iterator[Challenge]:
    """Yield the log-ins of one header; commas may be in quotes."""
    found: Challenge | None = None
    for match in _ITEM.finditer(field):
        name, value = match[1].lower(), match[2]
        if value is None:
            if found is not None:
                yield found
            found = Challenge(scheme=name)
        elif name == "algorithm" and found is not None:
            algorithm = value.strip('"').strip()
            known = algorithm if _ALGORITHM.fullmatch(algorithm) else ""
            found = Challenge(scheme=found.scheme, algorithm=known)
    if found is not None:
        yield found

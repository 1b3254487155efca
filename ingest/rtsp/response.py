"""The head of what a camera answers over RTSP or HTTP: a status and fields, all of it untrusted.

What is no answer has the status 0 and no fields.
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
    """A log-in that is offered (RFC 9110, 11.6.1): its scheme in small letters, its algorithm.

    The algorithm is as it came, MD5 where none is named (RFC 7616, 3.3), empty where it is no name.
    """

    scheme: str
    algorithm: str = "MD5"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """The head of an answer, from its status line on; where there is none, what came instead."""

    text: str

    @property
    def status(self) -> int:
        """Return the status; 0 where it is no answer."""
        status = _STATUS.match(self.text)
        return int(status[1]) if status else 0

    def header_values(self, header: str) -> Iterator[str]:
        """Yield the values of a field, whose name is given in small letters."""
        if not self.status:
            return
        _, *fields = self.text.split("\n")
        for name, _, value in (field.partition(":") for field in fields):
            if name.strip().lower() == header:
                yield value.strip()

    def challenges(self) -> Iterator[list[Challenge]]:
        """Yield the log-ins that each field offers; a field may offer several."""
        for value in self.header_values("www-authenticate"):
            yield list(_parse_challenges(value))

    @property
    def content_length(self) -> int:
        """Return the bytes of the body behind it."""
        length = next(self.header_values("content-length"), "")
        return int(length) if re.fullmatch("[0-9]{1,9}", length) else 0


def parse_head(data: bytes) -> ResponseHead:
    """Return the head in what was read, without what may be left of the answer before."""
    text = data.replace(b"\r", b"").decode("latin-1")
    status = _STATUS.search(text)
    return ResponseHead(text=(text[status.start() :] if status else text).partition("\n\n")[0])


def _parse_challenges(field: str) -> Iterator[Challenge]:
    """Yield what one field offers; commas may be in quotes."""
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

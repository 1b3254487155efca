"""Check a camera's url, and return the part of it that may be shown."""

import re

from ingest.errors import BadAddress

SCHEMES = ("rtsp", "rtsps", "http", "https")
_OTHERS = ("srt", "rtmp", "rtmps", "rtmpt", "rtp", "udp", "tcp", "mms", "webrtc", "whep", "onvif")
"""Other schemes that people try; to name any other text could show a part of a password."""

_ADDRESS = re.compile(
    r"(?P<scheme>[a-z]+)://"
    r"(?:[^/?#]*@)?"
    r"(?P<place>(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)"
    r"(?:[/?#][^@]*)?"
)


def address_of(url: str) -> str:
    """Return the `host:port` of a camera's url, the only part of it that may be shown.

    Raises BadAddress when the scheme is none of SCHEMES, or when a password contains an unescaped
    `/`, `?`, `#` or `@`: the end of the password is unclear then.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme in _OTHERS:
        raise BadAddress(
            f"{scheme} is not supported: use the camera's own url, as "
            "rtsp://user:password@host:554/path, or let a relay offer it over RTSP"
        )
    if not separator or scheme not in SCHEMES:
        raise BadAddress("write the url as rtsp://user:password@host:554/path (or rtsps, http)")
    match = _ADDRESS.fullmatch(url)
    if match is None:
        raise BadAddress(
            "the url cannot be read: write it as rtsp://user:password@host:554/path, "
            "with %2F %3F %23 %40 %3A %25 for / ? # @ : % in the user or the password, "
            "and %40 for @ in the path"
        )
    return match["place"]

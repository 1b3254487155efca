"""Send a camera the requests that FFmpeg will send, without user and password.

Responses are untrusted: they are read up to a size, and until a deadline.
"""

import re
import socket
import ssl
import time
from collections.abc import Iterator

from ingest.rtsp.response import ResponseHead, parse_head
from ingest.rtsp.url import CameraUrl

_MAX_HEAD_BYTES = 16 * 2**10
_HEAD_END = re.compile(rb"\n\r*\n")
_USER_AGENT = "User-Agent: longwatch\r\n"


class Exchange:
    """Requests and responses over one connection, until a deadline on `time.monotonic`."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._unread_bytes = 0

    def send(self, request: bytes) -> ResponseHead:
        """Send a request and return the head of its response; raises OSError (TimeoutError)."""
        self._connection.settimeout(seconds_left(self._deadline))
        self._connection.sendall(request)
        self._skip_body()
        return self._receive_head()

    def _skip_body(self) -> None:
        """Read the rest of the last response's body."""
        while self._unread_bytes:
            chunk = self._receive(min(self._unread_bytes, 4096))
            self._unread_bytes = self._unread_bytes - len(chunk) if chunk else 0

    def _receive_head(self) -> ResponseHead:
        """Read up to the first empty line, at most _MAX_HEAD_BYTES."""
        data = b""
        while (end := _HEAD_END.search(data)) is None and len(data) < _MAX_HEAD_BYTES:
            chunk = self._receive(4096)
            if not chunk:
                break
            data += chunk
        head = parse_head(data)
        if end is not None:
            self._unread_bytes = max(0, head.content_length - len(data[end.end() :]))
        return head

    def _receive(self, max_bytes: int) -> bytes:
        self._connection.settimeout(seconds_left(self._deadline))
        return self._connection.recv(max_bytes)


def build_requests(url: CameraUrl) -> Iterator[bytes]:
    """Yield the requests that FFmpeg sends before it logs in, in order."""
    if url.is_rtsp:
        yield f"OPTIONS {url.text} RTSP/1.0\r\nCSeq: 1\r\n{_USER_AGENT}\r\n".encode()
        accept = "Accept: application/sdp\r\n"
        yield f"DESCRIBE {url.text} RTSP/1.0\r\nCSeq: 2\r\n{accept}{_USER_AGENT}\r\n".encode()
        return
    path = url.path.partition("#")[0]
    path = path if path.startswith("/") else f"/{path}"
    fields = f"Host: {url.host_and_port}\r\nConnection: close\r\nAccept: */*\r\n"
    yield f"GET {path} HTTP/1.1\r\n{fields}{_USER_AGENT}\r\n".encode()


def wrap_tls(plain: socket.socket, host: str, seconds: float) -> ssl.SSLSocket:
    """Return a TLS connection over a plain one, as FFmpeg makes it; close the plain one on errors.

    Cameras have self-signed certificates and old ciphers. Raises OSError: SSLError if the other
    side does not speak TLS, or sends nothing in time.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    plain.settimeout(seconds)
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except TimeoutError:  # it may wait for the rest of a request
        plain.close()
        raise ssl.SSLError from None
    except BaseException:
        plain.close()
        raise


def seconds_left(deadline: float) -> float:
    """Return the seconds until a deadline; raise TimeoutError once it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds

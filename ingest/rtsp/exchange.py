"""Ask a camera what FFmpeg will ask it, without user and password, and read what it answers.

All that comes is untrusted: it is read to a bound, and until a deadline.
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
    """Requests and answers over one connection, until a deadline on `time.monotonic`."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._unread_bytes = 0

    def send(self, request: bytes) -> ResponseHead:
        """Send a request and return the head of its answer; raise OSError, TimeoutError too."""
        self._connection.settimeout(seconds_left(self._deadline))
        self._connection.sendall(request)
        self._skip_body()
        return self._receive_head()

    def _skip_body(self) -> None:
        """Read what is left of the body of the answer before."""
        while self._unread_bytes:
            chunk = self._receive(min(self._unread_bytes, 4096))
            self._unread_bytes = self._unread_bytes - len(chunk) if chunk else 0

    def _receive_head(self) -> ResponseHead:
        """Read up to the first empty line, if that is near."""
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
    """Yield what FFmpeg asks a camera before it logs in, in its order."""
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
    """Return a connection made one of TLS, as FFmpeg speaks it to a camera; else close it.

    A camera signs its certificate itself, if it knows today's ciphers at all. Raises OSError:
    SSLError where the other side does not speak TLS, which may be that it says nothing in time.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    plain.settimeout(seconds)
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except TimeoutError:  # it waits for the end of what it takes for a request
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

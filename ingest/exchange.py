"""Ask a camera what FFmpeg will ask it, without user and password, and read what it answers.

All that comes is untrusted: it is read to a bound, and until a deadline.
"""

import re
import socket
import ssl
import time
from collections.abc import Iterator

from ingest.head import Head, head_of
from ingest.place import Place

_MOST_BYTES = 16 * 2**10
_END = re.compile(rb"\n\r*\n")
_AGENT = "User-Agent: longwatch\r\n"


class Exchange:
    """Requests and answers over one connection, until a deadline on `time.monotonic`."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._unread = 0

    def ask(self, request: bytes) -> Head:
        """Send a request and return the head of its answer; raise OSError, TimeoutError too."""
        self._connection.settimeout(left(self._deadline))
        self._connection.sendall(request)
        self._pass_over_body()
        return self._head()

    def _pass_over_body(self) -> None:
        """Read what is left of the body of the answer before."""
        while self._unread:
            more = self._receive(min(self._unread, 4096))
            self._unread = self._unread - len(more) if more else 0

    def _head(self) -> Head:
        """Read up to the first empty line, if that is near."""
        read = b""
        while (end := _END.search(read)) is None and len(read) < _MOST_BYTES:
            more = self._receive(4096)
            if not more:
                break
            read += more
        head = head_of(read)
        if end is not None:
            self._unread = max(0, head.length - len(read[end.end() :]))
        return head

    def _receive(self, most: int) -> bytes:
        self._connection.settimeout(left(self._deadline))
        return self._connection.recv(most)


def requests_of(place: Place) -> Iterator[bytes]:
    """Yield what FFmpeg asks a camera before it logs in, in its order."""
    if place.is_rtsp:
        yield f"OPTIONS {place.url} RTSP/1.0\r\nCSeq: 1\r\n{_AGENT}\r\n".encode()
        accept = "Accept: application/sdp\r\n"
        yield f"DESCRIBE {place.url} RTSP/1.0\r\nCSeq: 2\r\n{accept}{_AGENT}\r\n".encode()
        return
    path = place.path.partition("#")[0]
    path = path if path.startswith("/") else f"/{path}"
    fields = f"Host: {place.shown}\r\nConnection: close\r\nAccept: */*\r\n"
    yield f"GET {path} HTTP/1.1\r\n{fields}{_AGENT}\r\n".encode()


def secured(plain: socket.socket, host: str, seconds: float) -> ssl.SSLSocket:
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


def left(deadline: float) -> float:
    """Return the seconds until a deadline; raise TimeoutError once it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds

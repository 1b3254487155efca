"""An RTSP camera whose habits can be set, in plain Python, for the tests (RFC 2326, 3550, 6184).

    with RtspCamera(clip, start_up=6.0, credentials=Credentials(offers=("MD5",))) as camera:
        watch(camera.url)                # with the credentials, if it has any
        camera.habits.statuses["DESCRIBE"] = 404     # any habit may change while it runs
        camera.stall(4.0)                # what was not sent is sent afterwards, in a burst
        camera.hang()                    # connections stay open; nothing is read, sent or answered
        camera.kill()                    # all connections break, nothing listens
        camera.start()                   # on the same port again
        camera.requests                  # what was asked and answered, and when

`clip` is an elementary stream, .h264 or .h265, as `ingest_fixtures.write_clip` makes it: its own
distance of keyframes is the camera's. The keyword arguments are those of `Habits`.
"""

import base64
import hashlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

_NTP_EPOCH = 2_208_988_800
_MAX_PAYLOAD = 1300
"""Bytes of payload in one RTP packet."""
_REASONS = {200: "OK", 401: "Unauthorized", 461: "Unsupported Transport"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessUnit:
    """The NAL units of one picture."""

    nals: tuple[bytes, ...]
    is_key: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who is let in, and the kinds of log-in that are offered, in order: Basic, MD5, SHA-256."""

    user: str = "viewer"
    password: str = "secret"
    schemes: tuple[str, ...] = ("MD5",)


@dataclass(frozen=True, slots=True, kw_only=True)
class RtspRequest:
    """What was asked of the camera and answered, at an instant of time.monotonic()."""

    at: float
    method: str
    status: int
    has_credentials: bool


@dataclass(slots=True, kw_only=True)
class Habits:
    """What a camera does; times in seconds."""

    fps: float = 10.0
    start_up: float = 0.0
    """DESCRIBE is answered only after somebody waited for so long; cold when the last leaves."""
    silence: float = 0.0
    """Nothing is sent for so long after PLAY was answered."""
    starts_at_key: bool = True
    """A reader begins with a keyframe; else with what the camera sends at that moment."""
    holds_until_key: bool = False
    """A relay: nothing is let out before the next keyframe that the camera sends."""
    statuses: dict[str, int] = field(default_factory=dict)
    """What a method is answered instead of 200."""
    credentials: Credentials | None = None
    only_udp: bool = False
    tells_parameters: bool = True
    """SPS and PPS are in the SDP, too."""
    stamp: Callable[[int, float], float] | None = None
    """Return the timestamp of a picture, from its number and its true one."""
    delay: Callable[[int], float] | None = None
    """Return how long after a picture of this number the next one comes; else 1 / fps."""
    clock: Callable[[float], float] | None = None
    """Return what sender reports say, in seconds since the epoch, from the true time."""
    loses: Callable[[int], bool] | None = None
    """Return whether the RTP packet of this number is lost."""
    mangles: Callable[[bytes], bytes] | None = None
    """Return what is sent instead of an answer or a packet."""
    tls: ssl.SSLContext | None = None
    closes_after: float | None = None
    """Seconds after PLAY at which each connection is closed."""


def read_access_units(path: Path) -> list[AccessUnit]:
    """Split an elementary stream into pictures; each begins before its parameter sets."""
    is_h264 = path.suffix == ".h264"
    parameters = (6, 7, 8, 9) if is_h264 else (32, 33, 34, 35, 39)
    found: list[AccessUnit] = []
    nals: list[bytes] = []
    is_key = has_picture = False
    for nal in _nals(path.read_bytes()):
        kind = _nal_type(nal, is_h264)
        is_picture = 1 <= kind <= 5 if is_h264 else kind <= 31
        is_first = is_picture and bool(nal[1 if is_h264 else 2] & 0x80)
        if has_picture and (is_first or kind in parameters):
            found.append(AccessUnit(nals=tuple(nals), is_key=is_key))
            nals, is_key, has_picture = [], False, False
        nals.append(nal)
        has_picture = has_picture or is_picture
        is_key = is_key or (kind == 5 if is_h264 else 16 <= kind <= 21)
    return [*found, AccessUnit(nals=tuple(nals), is_key=is_key)]


def _nals(stream: bytes) -> Iterator[bytes]:
    starts = [match.end() for match in re.finditer(b"\x00\x00\x01", stream)]
    for start, end in zip(starts, [*(start - 3 for start in starts[1:]), len(stream)], strict=True):
        yield stream[start:end].rstrip(b"\x00") if end < len(stream) else stream[start:end]


def _nal_type(nal: bytes, is_h264: bool) -> int:
    return nal[0] & 31 if is_h264 else nal[0] >> 1 & 63


class RtspCamera:
    """The camera; use it in a `with` block. It sends the clip again and again."""

    def __init__(self, clip: Path, host: str = "127.0.0.1", **habits: Any) -> None:
        self.habits = Habits(**habits)
        self.host, self.port = host, 0
        self.requests: list[RtspRequest] = []
        self.is_hung = False
        self.is_h264 = clip.suffix == ".h264"
        self.access_units = read_access_units(clip)
        self.began = time.monotonic()
        self.stalled_until = 0.0
        self.nonces: set[str] = set()
        self._lock = threading.Lock()
        self._readers: list[_Reader] = []
        self._warm_at: float | None = None
        self._listener: socket.socket | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        who = self.habits.credentials
        access = f"{who.user}:{quote(who.password, safe='')}@" if who else ""
        scheme = "rtsps" if self.habits.tls else "rtsp"
        return f"{scheme}://{access}{self.address}/cam"

    @property
    def failed_log_ins(self) -> list[RtspRequest]:
        """Return the log-ins that were refused."""
        return [each for each in self.requests if each.has_credentials and each.status == 401]

    @property
    def readers(self) -> int:
        """Return how many connections are open."""
        with self._lock:
            return len(self._readers)

    def start(self) -> None:
        """Listen, on the same port as before if any."""
        self.is_hung, self._warm_at = False, None
        self._listener = socket.create_server((self.host, self.port))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def kill(self) -> None:
        """Break all connections and listen no more."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._lock:
            readers = list(self._readers)
        for reader in readers:
            reader.close()

    def hang(self) -> None:
        """Answer and send nothing more; connections stay open, and new ones are accepted."""
        self.is_hung = True

    def stall(self, seconds: float) -> None:
        """Send nothing for a while, as a network that stalls: what waited comes afterwards."""
        self.stalled_until = time.monotonic() + seconds

    def ensure_started(self) -> bool:
        """Return whether the source runs; it starts while somebody waits."""
        with self._lock:
            if self._warm_at is None:
                self._warm_at = time.monotonic() + self.habits.start_up
            return time.monotonic() >= self._warm_at

    def record(self, request: RtspRequest) -> None:
        with self._lock:
            self.requests.append(request)

    def remove_reader(self, reader: "_Reader") -> None:
        with self._lock:
            self._readers.remove(reader)
            if not self._readers:
                self._warm_at = None

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                reader = _Reader(self, connection)
                with self._lock:
                    self._readers.append(reader)
                threading.Thread(target=reader.run, daemon=True).start()

    def description(self) -> str:
        """Return the SDP."""
        codec = "H264" if self.is_h264 else "H265"
        lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=camera", "c=IN IP4 0.0.0.0", "t=0 0"]
        lines += ["m=video 0 RTP/AVP 96", f"a=rtpmap:96 {codec}/90000"]
        if self.is_h264:
            form = "a=fmtp:96 packetization-mode=1"
            lines.append(form + (self._parameters() if self.habits.tells_parameters else ""))
        return "\r\n".join([*lines, "a=control:track0", ""])

    def _parameters(self) -> str:
        sets = [nal for nal in self.access_units[0].nals if _nal_type(nal, True) in (7, 8)]
        return ";sprop-parameter-sets=" + ",".join(base64.b64encode(each).decode() for each in sets)


class _Reader:
    """One connection of somebody who watches the camera."""

    def __init__(self, camera: RtspCamera, connection: socket.socket) -> None:
        self._camera = camera
        self._connection = connection
        self._lock = threading.Lock()
        self._channel = 0
        self._udp: tuple[socket.socket, int] | None = None
        self._peer = str(connection.getpeername()[0])
        self._is_closed = False
        self._plays = False

    def close(self) -> None:
        self._is_closed = True
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        try:
            if self._camera.habits.tls is not None:
                self._connection = self._camera.habits.tls.wrap_socket(self._connection, True)
            self._serve()
        except (OSError, ValueError):
            pass
        finally:
            self.close()
            self._connection.close()
            if self._udp is not None:
                self._udp[0].close()
            self._camera.remove_reader(self)

    def _serve(self) -> None:
        received = b""
        while more := self._connection.recv(65_536):
            received += more
            while received:
                if received[:1] == b"$":
                    if len(received) < 4 or len(received) < 4 + int.from_bytes(received[2:4]):
                        break
                    received = received[4 + int.from_bytes(received[2:4]) :]
                    continue
                head, separator, rest = received.partition(b"\r\n\r\n")
                if not separator:
                    break
                received = rest
                self._answer(head.decode("latin-1"))

    def _answer(self, text: str) -> None:
        first, *lines = text.split("\r\n")
        method, uri, _ = first.split(" ", 2)
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        while self._camera.is_hung and not self._is_closed:
            time.sleep(0.02)
        status, extra, body = self._result(method, uri, fields)
        self._camera.record(
            RtspRequest(
                at=time.monotonic(),
                method=method,
                status=status,
                has_credentials="authorization" in fields,
            )
        )
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        reason = _REASONS.get(status, "Refused")
        head = f"RTSP/1.0 {status} {reason}\r\nCSeq: {fields.get('cseq', '0')}\r\n{extra}{length}"
        self._send(f"{head}\r\n{body}".encode())
        if method == "PLAY" and status == 200 and not self._plays:
            self._plays = True
            threading.Thread(target=self._play, daemon=True).start()
        if method == "TEARDOWN":
            self.close()

    def _result(self, method: str, uri: str, fields: dict[str, str]) -> tuple[int, str, str]:
        """Return the status, more fields and the body of an answer."""
        habits = self._camera.habits
        if method != "OPTIONS" and not self._is_authorized(method, fields.get("authorization", "")):
            return 401, "".join(self._challenges()), ""
        while method == "DESCRIBE" and not self._camera.ensure_started():
            time.sleep(0.02)
            if self._is_closed or self._has_left():
                raise ConnectionError
        if method in habits.statuses:
            return habits.statuses[method], "", ""
        match method:
            case "OPTIONS":
                return 200, "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", ""
            case "DESCRIBE":
                extra = f"Content-Type: application/sdp\r\nContent-Base: {uri.rstrip('/')}/\r\n"
                return 200, extra, self._camera.description()
            case "SETUP":
                return self._set_up(fields.get("transport", ""))
            case _:
                return 200, "Session: 77\r\n", ""

    def _set_up(self, transport: str) -> tuple[int, str, str]:
        if found := re.search(r"interleaved=(\d+)-(\d+)", transport):
            if self._camera.habits.only_udp:
                return 461, "", ""
            self._channel = int(found[1])
            spec = f"RTP/AVP/TCP;unicast;interleaved={found[1]}-{found[2]}"
        else:
            found = re.search(r"client_port=(\d+)-(\d+)", transport)
            if found is None:
                return 461, "", ""
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sender.bind((self._camera.host, 0))
            self._udp = sender, int(found[1])
            port = sender.getsockname()[1]
            ports = f"client_port={found[1]}-{found[2]};server_port={port}-{port + 1}"
            spec = f"RTP/AVP;unicast;{ports}"
        return 200, f"Transport: {spec}\r\nSession: 77\r\n", ""

    def _has_left(self) -> bool:
        """Return whether the other side closed the connection while it waited."""
        if isinstance(self._connection, ssl.SSLSocket):
            return False
        with suppress(BlockingIOError):
            flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
            return self._connection.recv(1, flags) == b""
        return False

    def _is_authorized(self, method: str, given: str) -> bool:
        who = self._camera.habits.credentials
        if who is None:
            return True
        if given.startswith("Basic "):
            token = base64.b64encode(f"{who.user}:{who.password}".encode()).decode()
            return "Basic" in who.schemes and given == f"Basic {token}"
        parts = dict(re.findall(r'(\w+)="?([^",]*)"?', given))
        algorithm = parts.get("algorithm", "MD5")
        if algorithm not in who.schemes or parts.get("nonce") not in self._camera.nonces:
            return False
        return parts.get("response") == _digest(who, method, parts, algorithm)

    def _challenges(self) -> Iterator[str]:
        who = self._camera.habits.credentials
        for offer in who.schemes if who else ():
            if offer == "Basic":
                yield 'WWW-Authenticate: Basic realm="cam"\r\n'
                continue
            nonce = f"{time.monotonic_ns():x}"
            self._camera.nonces.add(nonce)
            algorithm = f', algorithm="{offer}"'
            yield f'WWW-Authenticate: Digest realm="cam", nonce="{nonce}"{algorithm}\r\n'

    def _send(self, message: bytes) -> None:
        mangles = self._camera.habits.mangles
        with self._lock:
            self._connection.sendall(mangles(message) if mangles else message)

    def _send_rtp(self, packet: bytes, is_report: bool = False) -> None:
        if self._udp is not None:
            sender, port = self._udp
            sender.sendto(packet, (self._peer, port + is_report))
            return
        channel = bytes([self._channel + is_report])
        self._send(b"$" + channel + struct.pack(">H", len(packet)) + packet)

    def _play(self) -> None:
        try:
            self._wait(time.monotonic() + self._camera.habits.silence)
            self._stream()
        except (OSError, ValueError):
            self.close()

    def _wait(self, until: float) -> bool:
        """Wait until an instant, and for as long as the camera hangs or the network stalls."""
        while not self._is_closed:
            now = time.monotonic()
            if now >= until and now >= self._camera.stalled_until and not self._camera.is_hung:
                return True
            time.sleep(min(0.02, max(0.001, until - now)))
        return False

    def _stream(self) -> None:
        camera, habits = self._camera, self._camera.habits
        began = due = time.monotonic()
        first = 0 if habits.starts_at_key else int((due - camera.began) * habits.fps)
        number, packets, reported = first, 0, -1e9
        is_held = habits.holds_until_key
        while self._wait(due):
            if habits.closes_after is not None and due - began > habits.closes_after:
                return self.close()
            unit = camera.access_units[number % len(camera.access_units)]
            is_held = is_held and not unit.is_key
            at = due - began
            stamp = at if habits.stamp is None else habits.stamp(number - first, at)
            ticks = int(stamp * 90_000) & 0xFFFFFFFF
            if habits.clock is not None and due - reported >= 5.0:
                reported = due
                self._report(habits.clock(time.time() - (time.monotonic() - due)), ticks)
            parts = [] if is_held else [each for nal in unit.nals for each in self._payloads(nal)]
            for part in parts:
                packets += 1
                last = 0x80 if part is parts[-1] else 0
                head = struct.pack(">BBHII", 0x80, 96 | last, packets & 0xFFFF, ticks, 0x1234)
                if habits.loses is None or not habits.loses(packets):
                    self._send_rtp(head + part)
            due += 1 / habits.fps if habits.delay is None else habits.delay(number - first)
            number += 1
        return None

    def _report(self, epoch_seconds: float, ticks: int) -> None:
        """Send a sender report (RFC 3550, 6.4.1)."""
        seconds, rest = divmod(epoch_seconds + _NTP_EPOCH, 1)
        fields = (0x80, 200, 6, 0x1234, int(seconds) & 0xFFFFFFFF, int(rest * 2**32), ticks, 1, 1)
        self._send_rtp(struct.pack(">BBHIIIIII", *fields), is_report=True)

    def _payloads(self, nal: bytes) -> list[bytes]:
        """Split a NAL unit into the payloads of packets (RFC 6184, 5.8; RFC 7798, 4.4.3)."""
        if len(nal) <= _MAX_PAYLOAD:
            return [nal]
        size = 1 if self._camera.is_h264 else 2
        kind = _nal_type(nal, self._camera.is_h264)
        head = (
            bytes([nal[0] & 0xE0 | 28]) if size == 1 else bytes([nal[0] & 0x81 | 49 << 1, nal[1]])
        )
        body = [nal[at : at + _MAX_PAYLOAD] for at in range(size, len(nal), _MAX_PAYLOAD)]
        ends = [(part is body[0]) << 7 | (part is body[-1]) << 6 for part in body]
        return [head + bytes([end | kind]) + part for end, part in zip(ends, body, strict=True)]


def _digest(who: Credentials, method: str, parts: dict[str, str], algorithm: str) -> str:
    def hashed(text: str) -> str:
        return hashlib.new("sha256" if algorithm == "SHA-256" else "md5", text.encode()).hexdigest()

    secret = hashed(f"{who.user}:{parts.get('realm', '')}:{who.password}")
    asked = hashed(f"{method}:{parts.get('uri', '')}")
    return hashed(f"{secret}:{parts['nonce']}:{asked}")

"""An RTSP and HTTP camera that says and sends anything, the same for the same seed.

Nothing it does takes long: where its client waits for more than it will ever get, it hangs up,
except in the few cases that `holds`, which are there for the watchdog of the client.
"""

import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from kit.ingest.hostile_bytes import (
    ElementaryClip,
    flip_bits,
    fmtp,
    mutate_clip,
    mutate_packets,
    noise,
    parameter_sets,
    rtcp_packet,
    rtp_packets,
    truncate,
)

_IDLE = 0.3
_HOLD_SECONDS = 60.0
KINDS = ("units", "rtp", "rtsp", "sdp", "http", "all")
_WRONG_VALUES = ("-1", "0", "1", "70000", "999999999999", "abc", "0x10", "")
_OTHER_HOST = "192.0.2.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCase:
    """What goes wrong, all of it from the seed."""

    seed: int
    kind: str
    clip: str
    transport: str
    keeps_open: bool

    @property
    def scheme(self) -> str:
        return "http" if self.kind == "http" else "rtsp"


def case_of(seed: int, clips: Mapping[str, ElementaryClip]) -> StreamCase:
    """Return the case of a seed."""
    rng = random.Random(seed)
    return StreamCase(
        seed=seed,
        kind=rng.choice(KINDS),
        clip=rng.choice(sorted(clips)),
        transport="udp" if rng.random() < 0.2 else "tcp",
        keeps_open=rng.random() < 0.004,
    )


class HostileCamera:
    """Serve one case after the other on one port; `serve` chooses the case from then on."""

    def __init__(self, clips: Mapping[str, ElementaryClip], files: Mapping[str, bytes]) -> None:
        self._clips = clips
        self._files = files
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._case: StreamCase | None = None
        self.failures: list[BaseException] = []
        """What went wrong in this camera itself."""
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def serve(self, case: StreamCase) -> None:
        self._case = case

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(
                    target=self._serve_connection, args=(connection,), daemon=True
                ).start()

    def _serve_connection(self, connection: socket.socket) -> None:
        case = self._case
        assert case is not None
        connection.settimeout(_HOLD_SECONDS if case.keeps_open else _IDLE)
        with connection:
            try:
                _Connection(case, self._clips[case.clip], self._files, connection).run()
            except OSError:
                pass  # the client has gone, or waits for what never comes
            except BaseException as failure:  # noqa: BLE001  # raised by who runs this
                self.failures.append(failure)


class _Connection:
    """One connection of a case."""

    def __init__(
        self,
        case: StreamCase,
        clip: ElementaryClip,
        files: Mapping[str, bytes],
        connection: socket.socket,
    ) -> None:
        self._case = case
        self._clip = mutate_clip(self._rng_for("units"), clip) if self._has_fault("units") else clip
        self._files = files
        self._connection = connection
        self._udp: list[int] = []

    def run(self) -> None:
        for request in self._requests():
            method = request.split(b" ", 1)[0].decode("latin-1")
            if method == "GET":
                return _http(self._rng_for("http"), self._connection, self._clip, self._files)
            self._connection.sendall(self._answer(method, request.decode("latin-1")))
            if method == "PLAY":
                self._play()
        return None

    def _has_fault(self, kind: str) -> bool:
        return self._case.kind in (kind, "all")

    def _rng_for(self, what: str) -> random.Random:
        return random.Random(f"{self._case.seed} {what}")

    def _requests(self) -> Iterator[bytes]:
        found = b""
        while True:
            while b"\r\n\r\n" in found:
                request, _, found = found.partition(b"\r\n\r\n")
                if not request.startswith(b"$"):
                    yield request
            more = self._connection.recv(65536)
            if not more:
                return
            found += more

    def _answer(self, method: str, request: str) -> bytes:
        number = re.search(r"CSeq: *(\d+)", request)
        rng = self._rng_for(f"rtsp {method}")
        head = ["RTSP/1.0 200 OK", f"CSeq: {number[1] if number else 0}", "Session: 12345678"]
        body = b""
        if method == "DESCRIBE":
            body = self._description()
            head += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        if method == "SETUP":
            head.append(f"Transport: {self._transport(request)}")
        if self._has_fault("rtsp") and rng.random() < 0.4:
            return mutate_answer(rng, head, body)
        return "\r\n".join([*head, "", ""]).encode("latin-1") + body

    def _transport(self, request: str) -> str:
        ports = re.search(r"client_port=(\d+)-(\d+)", request)
        if ports is None:
            channels = re.search(r"interleaved=(\d+-\d+)", request)
            return f"RTP/AVP/TCP;unicast;interleaved={channels[1] if channels else '0-1'}"
        self._udp = [int(ports[1]), int(ports[2])]
        return f"RTP/AVP;unicast;client_port={ports[1]}-{ports[2]};server_port=5000-5001"

    def _description(self) -> bytes:
        clip = self._clip
        kind = clip.payload_type
        lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=cam", "t=0 0", "a=control:*"]
        lines += [f"m=video 0 RTP/AVP {kind}", f"a=rtpmap:{kind} {clip.codec}/90000"]
        if clip.codec != "JPEG":
            lines.append(fmtp(clip, parameter_sets(clip)))
        lines.append("a=control:track0")
        if not self._has_fault("sdp"):
            return "\r\n".join([*lines, ""]).encode()
        return mutate_description(self._rng_for("sdp"), lines)

    def _play(self) -> None:
        rng = self._rng_for("rtp")
        found = rtp_packets(self._clip)
        if self._has_fault("rtp"):
            found = mutate_packets(rng, found)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for packet in found:
                self._send(sender, 0, packet)
                if self._has_fault("rtp") and rng.random() < 0.05:
                    self._send(sender, 1, rtcp_packet(rng))
            if self._udp:  # who hangs up at once is not read
                time.sleep(_IDLE)
        if self._case.keeps_open:
            with suppress(TimeoutError):
                self._connection.recv(1)
        _hang_up(self._connection)

    def _send(self, sender: socket.socket, channel: int, packet: bytes) -> None:
        if self._udp:
            sender.sendto(packet, ("127.0.0.1", self._udp[channel]))
            return
        length = len(packet)
        rng = self._rng_for(f"length {packet[:8].hex()}")
        if self._has_fault("rtp") and rng.random() < 0.01:
            channel, length = rng.randrange(256), rng.choice((0, 1, 11, length + 9, 65535))
        self._connection.sendall(struct.pack(">cBH", b"$", channel, length & 0xFFFF) + packet)


def mutate_answer(rng: random.Random, head: list[str], body: bytes) -> bytes:
    """Return an answer with something wrong in its lines, its lengths or its end."""
    kind = rng.randrange(10)
    end = "\r\n\r\n"
    if kind == 0:
        status = rng.choice((100, 200, 301, 302, 400, 401, 403, 404, 453, 461, 500, 0, 99999))
        head[0] = f"RTSP/{rng.choice(('1.0', '2.0', '9' * 50))} {status} {'x' * 30}"
        head += rng.choice(
            (
                [f"Location: rtsp://{_OTHER_HOST}/x"],
                [f'WWW-Authenticate: Digest realm="{"r" * 5000}", nonce=""'],
                ["WWW-Authenticate: Basic"],
                ["WWW-Authenticate: Digest algorithm=SHA-256, realm=a, nonce=b"],
                [],
            )
        )
    elif kind == 1:
        head[1] = rng.choice(("CSeq: 99999", "CSeq: -1", "CSeq:", "X: y"))
    elif kind == 2:
        head = [line for line in head if not line.startswith(rng.choice("CST"))] or ["x"]
    elif kind == 3:
        head = [line for line in head if not line.startswith("Content-Length")]
        head.append(f"Content-Length: {rng.choice(_WRONG_VALUES)}")
    elif kind == 4:
        head.insert(rng.randrange(1, len(head) + 1), "X: " + "y" * rng.choice((5000, 10**6)))
    elif kind == 5:
        head += [f"X-{number}: y" for number in range(rng.choice((100, 10_000)))]
    elif kind == 6:
        end = rng.choice(("", "\r\n", "\n\n", "\n", "\r\r"))
    elif kind == 7:
        head = [line for line in head if not line.startswith("Transport")]
        head.append(f"Transport: {_wrong_transport(rng)}")
    elif kind == 8:
        return flip_bits(rng, "\r\n".join(head).encode() + end.encode() + body)
    else:
        return noise(rng, 5000)
    return "\r\n".join(head).encode("latin-1") + end.encode() + body


def _wrong_transport(rng: random.Random) -> str:
    return rng.choice(
        (
            "",
            "RTP/AVP/TCP;interleaved=255-256",
            "RTP/AVP/TCP;interleaved=-1--2",
            "RTP/AVP/TCP",
            "RTP/AVP;unicast;client_port=0-65536;server_port=99999-1",
            "RTP/AVP;multicast;destination=224.2.0.1;port=1-2;ttl=999",
            f"RTP/AVP;unicast;source={'a' * 400};client_port=1-2",
            "x-real-rdt/udp;client_port=1",
            "RAW/RAW/UDP;unicast",
            ";;;;====",
        )
    )


def mutate_description(rng: random.Random, lines: list[str]) -> bytes:
    """Return a description (RFC 8866) with something wrong in it."""
    lines = list(lines)
    junk = noise(rng, 300).decode("latin-1")
    changes: list[Callable[[], object]] = [
        lambda: lines.remove(rng.choice(lines)),
        lambda: rng.shuffle(lines),
        lambda: lines.insert(rng.randrange(len(lines)), rng.choice(lines)),
        lambda: lines.extend(["m=video 0 RTP/AVP 96", "a=control:t"] * rng.choice((1, 30))),
        lambda: lines.extend(["m=audio 0 RTP/AVP 0"] * rng.choice((100, 10_000))),
        lambda: lines.insert(-1, f"a=fmtp:96 sprop-parameter-sets={junk}"),
        lambda: lines.insert(-1, "a=fmtp:96 sprop-parameter-sets=" + "Z0IA" * 20_000),
        lambda: lines.insert(-1, "a=fmtp:96 " + "a=b;" * 50_000),
        lambda: lines.insert(
            -1, f"a=rtpmap:{rng.choice(_WRONG_VALUES)} H264/{rng.choice(_WRONG_VALUES)}"
        ),
        lambda: lines.insert(-1, f"a=rtpmap:96 {rng.choice(('H265', 'VP8', 'MP2T', junk))}"),
        lambda: lines.insert(
            -1, f"a=framesize:96 {rng.choice(_WRONG_VALUES)}-{rng.choice(_WRONG_VALUES)}"
        ),
        lambda: lines.insert(-1, f"a=control:{rng.choice((junk, 'x' * 5000, '*'))}"),
        lambda: lines.insert(0, f"c=IN IP4 {rng.choice(('224.2.0.1/999', '::', junk))}"),
        lambda: lines.insert(
            0, f"a=range:npt={rng.choice(_WRONG_VALUES)}-{rng.choice(_WRONG_VALUES)}"
        ),
        lambda: lines.insert(0, "x" * 10**6),
    ]
    for _ in range(rng.randint(1, 3)):
        rng.choice(changes)()
        lines = lines or ["v=0"]
    description = "\r\n".join([*lines, ""]).encode("latin-1")
    return rng.choice(
        (
            lambda: description,
            lambda: description,
            lambda: truncate(rng, flip_bits(rng, description)),
        )
    )()


def _http(
    rng: random.Random, connection: socket.socket, clip: ElementaryClip, files: Mapping[str, bytes]
) -> None:
    """Answer with pictures between boundaries, or with a whole file, each more or less wrong."""
    if rng.random() < 0.4:
        kind = rng.choice(sorted(files))
        data = files[kind]
        data = flip_bits(rng, data, 200) if rng.random() < 0.7 else truncate(rng, data)
        head = ["HTTP/1.1 200 OK", f"Content-Type: {rng.choice((kind, 'video/mp4', ''))}"]
        body = data
    else:
        head, body = _multipart(rng, mutate_clip(rng, clip))
    if rng.random() < 0.3:
        connection.sendall(mutate_answer(rng, head, body))
    else:
        connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1") + body)
    _hang_up(connection)


def _hang_up(connection: socket.socket) -> None:
    """End the connection so that what was sent is read: a reset would throw it away."""
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(_IDLE)
    with suppress(TimeoutError):
        while connection.recv(65_536):
            pass


def _multipart(rng: random.Random, clip: ElementaryClip) -> "tuple[list[str], bytes]":
    boundary = rng.choice(("frame", "--frame", "", '"frame"', "b" * 5000, "\x00\xff"))
    head = [
        "HTTP/1.1 200 OK",
        rng.choice(
            (
                f"Content-Type: multipart/x-mixed-replace; boundary={boundary}",
                f"Content-Type: multipart/x-mixed-replace;boundary={boundary}",
                "Content-Type: multipart/x-mixed-replace",
                "Content-Type: image/jpeg",
            )
        ),
    ]
    if rng.random() < 0.1:
        head.append(rng.choice(("Transfer-Encoding: chunked", "Content-Encoding: gzip")))
    parts = []
    for unit in clip.units:
        data = b"".join(unit)
        length = str(len(data)) if rng.random() < 0.9 else rng.choice(_WRONG_VALUES)
        lines = [f"--{boundary}", "Content-Type: image/jpeg", f"Content-Length: {length}", "", ""]
        kept = [line for line in lines if rng.random() < 0.97]
        parts.append("\r\n".join(kept).encode("latin-1") + data + b"\r\n")
    return head, b"".join(parts)

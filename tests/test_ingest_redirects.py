"""Cameras that redirect: FFmpeg is not let go where the password must not."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingest.errors import CameraLost
from ingest.live.source import CameraSource
from ingest.rtsp import preflight
from ingest.rtsp.redirects import resolve_redirects
from kit.certificates import self_signed
from kit.ingest.fixtures import GStreamerServer, a_camera, write_clip

OTHER = "127.0.0.2"
"""Another host that is this machine, too."""
CANARY = "c4n4ry-hunter2"
UNAUTHORIZED = b"RTSP/1.0 401 Unauthorized\r\nCSeq: %d\r\n\r\n"


class Peer:
    """A server that answers each request as it is told, and keeps what it was sent."""

    def __init__(self, host: str, answer: Callable[[bytes], bytes], tls: ssl.SSLContext | None):
        self._listener = socket.create_server((host, 0))
        self._answer, self._tls = answer, tls
        self.got = b""
        self._stopped = False
        self.port = int(self._listener.getsockname()[1])
        self.place = f"{host}:{self.port}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._stopped = True
        with socket.create_connection(self._listener.getsockname()):
            self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if self._stopped:
                    return
                connection.settimeout(5)
                try:
                    self._talk(self._tls.wrap_socket(connection, True) if self._tls else connection)
                except OSError:
                    continue

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            while request := connection.recv(4096):
                self.got += request
                reply = self._answer(request)
                if not reply:
                    return
                connection.sendall(reply)


@contextmanager
def serving(
    answer: Callable[[bytes], bytes], host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[Peer]:
    peer = Peer(host, answer, tls)
    try:
        yield peer
    finally:
        peer.close()


def silent(_: bytes) -> bytes:
    return b""


def sequence(request: bytes) -> int:
    return int(request.partition(b"CSeq: ")[2].split()[0])


def redirecting(*locations: str, code: int = 302, to: bytes = b"DESCRIBE") -> Callable[..., bytes]:
    """Answer requests that begin with `to` by a redirect, others by 200."""

    def answer(request: bytes) -> bytes:
        if request.startswith(b"GET"):
            fields = "".join(f"Location: {each}\r\n" for each in locations)
            return f"HTTP/1.1 {code} Moved\r\n{fields}Content-Length: 0\r\n\r\n".encode()
        moved = request.startswith(to)
        status = f"{code} Moved" if moved else "200 OK"
        fields = "".join(f"Location: {each}\r\n" for each in locations if moved)
        return f"RTSP/1.0 {status}\r\nCSeq: {sequence(request)}\r\n{fields}\r\n".encode()

    return answer


def camera_at(place: str, scheme: str = "rtsp", *allowed: str) -> Any:
    camera = a_camera(f"{scheme}://guard:{CANARY}@{place}/sub")
    return replace(camera, redirects=allowed)


def url_to_open(camera: Any) -> str:
    with resolve_redirects(camera, lambda _peer: None) as url:
        return url


def why_lost(camera: Any) -> str:
    with pytest.raises(CameraLost) as lost, CameraSource(camera):
        pass
    assert CANARY not in f"{lost.value!r}"
    return lost.value.reason


@pytest.mark.parametrize("code", [300, 301, 302, 303, 305, 307, 308])
@pytest.mark.parametrize("request_of", [b"DESCRIBE", b"OPTIONS"])
def test_another_host_gets_no_byte_of_a_redirected_rtsp_camera(
    code: int, request_of: bytes
) -> None:
    with serving(silent, OTHER) as canary:
        answer = redirecting(f"rtsp://{canary.place}/x", code=code, to=request_of)
        with serving(answer) as camera:
            said = why_lost(camera_at(camera.place))
            assert said.startswith(
                f"{camera.place} redirects to {canary.place}, another host, which would get the"
            )
            assert CANARY.encode() not in camera.got
        assert canary.got == b""


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_every_location_of_an_answer_is_looked_at(scheme: str) -> None:
    with serving(silent, OTHER) as canary, ExitStack() as held:
        evil, own = f"{scheme}://{canary.place}/x", f"{scheme}://127.0.0.1:1/x"
        for locations in ((evil, own), (own, evil)):
            camera = held.enter_context(serving(redirecting(*locations)))
            assert "another host" in why_lost(camera_at(camera.place, scheme))
        assert canary.got == b""


def test_an_allowed_host_is_followed_with_the_password(gstreamer: None, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.h264", frames=20)
    with (
        GStreamerServer(clip=clip, user="guard", password=CANARY) as there,
        serving(redirecting(f"rtsp://127.0.0.1:{there.port}/cam"), OTHER) as camera,
    ):
        assert "another host" in why_lost(camera_at(camera.place))
        with CameraSource(camera_at(camera.place, "rtsp", "127.0.0.1")) as source:
            assert (source.width, source.height) == (320, 240)


def test_an_allowed_host_must_not_redirect_to_a_third() -> None:
    with (
        serving(silent, "127.0.0.3") as canary,
        serving(redirecting(f"rtsp://{canary.place}/x"), OTHER) as second,
        serving(redirecting(f"rtsp://{second.place}/x")) as camera,
    ):
        said = why_lost(camera_at(camera.place, "rtsp", OTHER))
        assert f"{second.place} redirects to {canary.place}" in said
        assert canary.got == b""
        assert CANARY.encode() not in second.got


def test_the_same_host_may_redirect_to_another_port_and_by_its_address(
    gstreamer: None, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "a.h264", frames=20)
    with (
        GStreamerServer(clip=clip, user="guard", password=CANARY) as there,
        serving(redirecting(f"rtsp://127.0.0.1:{there.port}/cam")) as camera,
        CameraSource(camera_at(f"localhost:{camera.port}")) as source,
    ):
        assert source.width == 320


@pytest.mark.parametrize(
    "location",
    [
        "/elsewhere",
        "//{canary}/x",
        "rtsp:///x",
        "rtsp://guard@{canary}/x",
        "rtsp://127.0.0.1\\@{canary}/x",
        "http://{canary}/x",
        "RTSP://{canary}/x",
        "",
        "rtsp://127.0.0.1 @{canary}/",
        "rtsp://127.0.0.1:99999999/x",
    ],
)
def test_what_ffmpeg_may_read_in_another_way_is_refused(location: str) -> None:
    with (
        serving(silent, OTHER) as canary,
        serving(redirecting(location.format(canary=canary.place))) as camera,
    ):
        assert "redirects to an address that is not valid" in why_lost(camera_at(camera.place))
        assert canary.got == b""


def test_redirects_without_end_are_given_up() -> None:
    def here(request: bytes) -> bytes:
        return redirecting(f"rtsp://{first.place}/again")(request)

    with serving(here) as first:
        assert "again and again" in why_lost(camera_at(first.place))


@pytest.mark.parametrize(
    "answer",
    [
        silent,
        lambda request: UNAUTHORIZED % sequence(request),
        lambda request: b"RTSP/1.0 501 Not Implemented\r\nCSeq: %d\r\n\r\n" % sequence(request),
        lambda request: b"\xff" * 40_000,
        lambda request: b"RTSP/1.0 200 OK\r\nLocation: rtsp://127.0.0.2/\r\n\r\n",
        lambda request: b"RTSP/1.0 302 Moved\r\n\r\n",
    ],
)
def test_whatever_is_no_redirect_is_left_to_ffmpeg(answer: Callable[[bytes], bytes]) -> None:
    with serving(answer) as peer:
        camera = camera_at(peer.place)
        assert url_to_open(camera) == camera.url
        assert CANARY.encode() not in peer.got


def test_a_camera_that_says_nothing_is_looked_at_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight, "RESPONSE_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        camera = camera_at(f"127.0.0.1:{mute.getsockname()[1]}")
        began = time.monotonic()
        assert "no picture yet" in why_lost(camera)
        assert time.monotonic() - began < 1.0


def test_a_camera_that_drips_is_looked_at_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def drip() -> None:
        with suppress(OSError):
            connection, _ = dripping.accept()
            with connection:
                for _ in range(1000):
                    connection.sendall(b"a")
                    time.sleep(0.004)

    monkeypatch.setattr(preflight, "RESPONSE_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as dripping:
        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        assert "no picture yet" in why_lost(camera_at(f"127.0.0.1:{dripping.getsockname()[1]}"))
        assert time.monotonic() - began < 1.5
        thread.join()


@pytest.mark.parametrize("apart", [False, True])
def test_a_redirect_behind_an_answer_with_a_body_is_seen(apart: bool) -> None:
    """FFmpeg passes over the body of an answer, too, and would follow the redirect behind it."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            parts = (b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 9\r\n\r\n", b"on\n\ntwo\n\n")
            for part in parts if apart else (b"".join(parts),):
                connection.sendall(part)
                time.sleep(0.1)
            connection.recv(4096)
            moved = f"RTSP/1.0 302 Moved\r\nCSeq: 2\r\nLocation: rtsp://{OTHER}:1/x\r\n\r\n"
            connection.sendall(moved.encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        assert "another host" in why_lost(camera_at(f"127.0.0.1:{listener.getsockname()[1]}"))
        thread.join()


def refused(*challenges: str) -> Callable[[bytes], bytes]:
    """Answer OPTIONS by 200, the rest by a refusal with these challenges."""
    fields = "".join(f"WWW-Authenticate: {each}\r\n" for each in challenges).encode()

    def answer(request: bytes) -> bytes:
        if request.startswith(b"OPTIONS"):
            return b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"
        return b"RTSP/1.0 401 No\r\nCSeq: %d\r\n%s\r\n" % (sequence(request), fields)

    return answer


@pytest.mark.parametrize(
    ("challenges", "unknown"),
    [
        (['Digest realm="x", algorithm=SHA-256'], "SHA-256"),
        (['Digest realm="x"', 'Digest realm="x", algorithm="SHA-256"'], "SHA-256"),
        (['Digest realm="x", algorithm=MD5, Digest realm="x", algorithm=SHA-256'], "SHA-256"),
        (['Digest algorithm="\x1b[2J", realm="x"'], "an unnamed algorithm"),
        (['Digest realm="x", algorithm=SHA-256', 'Digest realm="x"'], None),
        (['Digest realm="algorithm=SHA-256", nonce="1"'], None),
        (['Basic realm="x", Digest realm="x", algorithm=SHA-256'], None),
        (["Basic"], None),
    ],
)
def test_a_digest_that_ffmpeg_does_not_know_is_told(
    challenges: list[str], unknown: str | None
) -> None:
    """FFmpeg reads a field by its first scheme, and takes the last algorithm in it."""
    with serving(refused(*challenges)) as peer:
        camera = camera_at(peer.place)
        if unknown is None:
            assert url_to_open(camera) == camera.url
        else:
            assert f"requires a log-in by digest with {unknown}, which" in why_lost(camera)


def test_a_port_that_is_none_is_a_plain_loss() -> None:
    assert "127.0.0.1:99999" in why_lost(camera_at("127.0.0.1:99999"))
    with serving(redirecting("rtsp://127.0.0.1:99999/x")) as camera:
        assert "redirects to an address that is not valid" in why_lost(camera_at(camera.place))


def test_a_redirect_over_tls_is_seen_and_none_leads_into_the_clear(tmp_path: Path) -> None:
    pair, tls = self_signed(tmp_path, "camera"), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.certificate, pair.key)
    with serving(silent, OTHER) as canary, ExitStack() as held:
        for host, said in ((canary.place, "another host"), ("127.0.0.1:1", "is not encrypted")):
            answer = redirecting(f"rtsp://{host}/x")
            camera = held.enter_context(serving(answer, tls=tls))
            assert said in why_lost(camera_at(camera.place, "rtsps"))
        assert canary.got == b""


def test_http_is_followed_on_its_host_alone_and_with_the_password() -> None:
    with serving(silent) as there, serving(redirecting("/b?c=d")) as camera:
        moved = redirecting(f"http://127.0.0.1:{there.port}/b")
        with serving(moved) as first:
            opened = url_to_open(camera_at(first.place, "http"))
            assert opened == f"http://guard:{CANARY}@{there.place}/b"
            assert there.got.startswith(b"GET /b HTTP/1.1\r\n")
        assert "again and again" in why_lost(camera_at(camera.place, "http"))
    with serving(silent, OTHER) as canary:
        moved = redirecting(f"http://{canary.place}/x")
        with serving(moved) as camera:
            assert "another host" in why_lost(camera_at(camera.place, "http"))
            assert canary.got == b""
            allowed = url_to_open(camera_at(camera.place, "http", OTHER))
            assert allowed == f"http://{canary.place}/x"


def test_ffmpeg_itself_follows_no_redirect_of_http() -> None:
    """A camera that redirects only once it has the password, which our look does not give."""

    def answer(request: bytes) -> bytes:
        if b"Authorization:" in request:
            return redirecting(f"http://{canary.place}/x")(request)
        field = b'WWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n'
        return b"HTTP/1.1 401 Unauthorized\r\n" + field + b"\r\n"

    with serving(silent, OTHER) as canary, serving(answer) as camera:
        assert "no video comes from" in why_lost(camera_at(camera.place, "http"))
        assert b"Authorization:" in camera.got
        assert canary.got == b""


def test_a_look_does_not_keep_a_camera_from_serving(gstreamer: None, tmp_path: Path) -> None:
    """What GStreamer prepared for the look it takes down, and answers 503 meanwhile."""
    with GStreamerServer(clip=write_clip(tmp_path / "a.h264", frames=20)) as server:
        for _ in range(5):
            with CameraSource(a_camera(server.url)) as source:
                assert source.width == 320

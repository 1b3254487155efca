"""Which log-ins a camera offers, from answers that nobody can trust."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.rtsp.authentication import Authentication, offered_schemes, query_authentication
from ingest.rtsp.response import ResponseHead, parse_head
from kit.certificates import self_signed
from kit.ingest.fixtures import CANARY, Clips
from kit.ingest.rtsp_camera import Credentials, RtspCamera

OK = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"
REFUSED = b"RTSP/1.0 401 Unauthorized\r\nCSeq: 2\r\n%s\r\n\r\n"


@pytest.mark.parametrize(
    ("challenges", "offered"),
    [
        (['Basic realm="cam"'], ["basic"]),
        (['Digest realm="cam", nonce="a"'], ["digest-md5"]),
        (['Digest realm="cam", nonce="a", algorithm=MD5'], ["digest-md5"]),
        (['Digest realm="cam", algorithm="SHA-256", qop="auth"'], ["digest-sha-256"]),
        (['Digest algorithm=sha-256 , realm="a"'], ["digest-sha-256"]),
        (
            ['Digest realm="x", algorithm=SHA-256', 'Digest realm="x"', "Basic"],
            ["digest-sha-256", "digest-md5", "basic"],
        ),
        (
            ['Digest realm="a, Basic realm=", nonce="1", Basic realm="b"'],
            ["digest-md5", "basic"],
        ),
        (['Digest realm="\\"Basic \\", Basic", algorithm=MD5-sess'], ["digest-md5-sess"]),
        (["Negotiate", "NTLM TlRMTVNT=="], ["negotiate", "ntlm"]),
        (["Digest algorithm=ROT13, realm=x"], []),
        (["\x1b[2J, x=1, =, ,,"], []),
        ([], []),
    ],
)
def test_challenges_are_read(challenges: list[str], offered: list[str]) -> None:
    lines = ["RTSP/1.0 401 No", *(f"WWW-AUTHENTICATE : {each}" for each in challenges)]
    assert list(offered_schemes(ResponseHead(text="\n".join(lines)))) == offered


@given(st.text(max_size=300))
def test_whatever_is_sent_as_a_challenge_gives_known_names(text: str) -> None:
    for kind in offered_schemes(ResponseHead(text=f"RTSP/1.0 401 No\nWWW-Authenticate: {text}")):
        assert kind.startswith("digest-") or kind in {"basic", "bearer", "negotiate", "ntlm"}


@given(st.binary(max_size=300), st.booleans())
def test_whatever_is_read_is_a_head(read: bytes, has_status: bool) -> None:
    head = parse_head((b"RTSP/1.0 302 Moved\r\nLocation: x\r\n" if has_status else b"") + read)
    assert head.status == 302 if has_status else 0 <= head.status < 1000
    assert head.content_length >= 0
    assert all("\n" not in value for value in head.header_values("location"))


def test_a_head_begins_behind_what_is_left_of_the_answer_before() -> None:
    head = parse_head(b"v=0\r\n RTSP/1.0 401 No\r\nContent-Length: 12\r\n\r\nRTSP/1.0 200 OK\r\n")
    assert (head.status, head.content_length, list(head.header_values("v"))) == (401, 12, [])


def test_a_long_challenge_is_read_in_no_time() -> None:
    began = time.monotonic()
    for text in ('x="\\"' * 4000, '="' * 8000, "Digest " * 2500, 'a="' + "\\" * 16_000):
        list(offered_schemes(ResponseHead(text=f"RTSP/1.0 401 No\nWWW-Authenticate: {text}")))
    assert time.monotonic() - began < 0.5


@contextmanager
def answering(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve one connection; return where."""

    def accept() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


def test_neither_user_nor_password_is_sent() -> None:
    received = []

    def serve(connection: socket.socket) -> None:
        received.append(connection.recv(4096))
        connection.sendall(OK)
        received.append(connection.recv(4096))
        connection.sendall(REFUSED % b'WWW-Authenticate: Basic realm="x"')

    with answering(serve) as place:
        found = query_authentication(
            f"rtsp://viewer:{CANARY.replace('/', '%2F')}@{place}/cam?a=b#c"
        )
    assert (found.is_needed, found.offered) == (True, ("basic",))
    assert [each.split(b" ")[0] for each in received] == [b"OPTIONS", b"DESCRIBE"]
    assert b"viewer" not in b"".join(received)
    assert b"pw" not in b"".join(received)


def test_over_http_it_is_a_get() -> None:
    received = []

    def serve(connection: socket.socket) -> None:
        received.append(connection.recv(4096))
        connection.sendall(b"HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm=x\r\n\r\n<html>")

    with answering(serve) as place:
        found = query_authentication(f"http://u:p@{place}?q=1")
    assert received[0].startswith(b"GET /?q=1 HTTP/1.1\r\nHost: " + place.encode())
    assert (found.is_needed, found.offered, found.is_encrypted) == (True, ("digest-md5",), False)


def endless(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"X: " + b"a" * 4093)


def dripping(connection: socket.socket) -> None:
    for _ in range(100):
        connection.sendall(b"a")
        time.sleep(0.1)


def silent(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def closing(connection: socket.socket) -> None:
    connection.recv(1)


def garbage(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(bytes(range(256)) * 8 + b"\n\n")
    connection.recv(4096)


@pytest.mark.parametrize("serve", [endless, dripping, silent, closing, garbage])
@pytest.mark.parametrize("scheme", ["rtsp", "http", "rtsps"])
def test_a_hostile_server_takes_no_more_than_the_time(
    serve: Callable[[socket.socket], None], scheme: str
) -> None:
    with answering(serve) as place:
        began = time.monotonic()
        found = query_authentication(f"{scheme}://{place}/cam", seconds=0.5)
        assert time.monotonic() - began < 0.9
    assert (found.is_needed, found.offered) == (None, ())


@pytest.mark.parametrize(
    "url",
    ["rtsp://127.0.0.1:1/x", "rtsp://cam.invalid/x", "rtsp://127.0.0.1:99999/x", "rtsp://h/\n"],
)
def test_what_cannot_be_reached_is_not_known(url: str) -> None:
    assert query_authentication(url) == Authentication()


@pytest.mark.parametrize("part", [b"X: " + b"a" * 4093, b"\r" * 4096])
def test_an_answer_without_end_is_read_to_a_bound(part: bytes) -> None:
    sent = 0

    def serve(connection: socket.socket) -> None:
        nonlocal sent
        while True:
            sent += connection.send(part)

    with answering(serve) as place:
        began = time.monotonic()
        query_authentication(f"http://{place}/cam", seconds=3.0)
        assert time.monotonic() - began < 2.0
    assert sent < 16 * 2**20


def test_an_answer_that_is_late_leaves_open_whether_a_log_in_is_needed() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(OK)
        silent(connection)

    with answering(serve) as place:
        found = query_authentication(f"rtsp://{place}/cam", seconds=0.3)
    assert found.answered is not None
    assert found.is_needed is None


@pytest.mark.parametrize(
    ("offers", "offered"),
    [
        (("MD5", "SHA-256"), ("digest-md5", "digest-sha-256")),
        (("SHA-256", "Basic"), ("digest-sha-256", "basic")),
        ((), ()),
    ],
)
def test_a_camera_offers_its_log_ins(
    clips: Clips, offers: tuple[str, ...], offered: tuple[str, ...]
) -> None:
    with RtspCamera(clips.plain, credentials=Credentials(schemes=offers)) as camera:
        found = query_authentication(camera.url)
    assert (found.is_needed, found.offered) == (True, offered)
    assert camera.failed_log_ins == []


def test_a_certificate_that_signed_itself_is_taken(clips: Clips, tmp_path: Path) -> None:
    pair = self_signed(tmp_path, "camera")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with RtspCamera(
        clips.plain, tls=context, credentials=Credentials(schemes=("Basic",))
    ) as camera:
        found = query_authentication(camera.url)
    assert (found.is_needed, found.offered, found.is_encrypted) == (True, ("basic",), True)

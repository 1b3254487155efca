import base64
import resource
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from pathlib import Path
from uuid import UUID

import httpcore
import pytest
import standardwebhooks

from alerts.notify import http
from alerts.notify.egress import EgressAllowlist, is_public
from alerts.notify.http import EgressPolicy, check_url
from alerts.notify.network import connect_first
from alerts.notify.outcomes import (
    DEFAULT_RETRY_AFTER,
    Delivered,
    DeliveryOutcome,
    Refused,
    Retry,
    outcome_from_status,
)
from alerts.notify.webhook import Webhook, sign, signing_key
from kit.alerts.receiver_fuzz import WORST_RETRY_AFTERS
from kit.alerts.webhook_receiver import (
    ALLOW_ALL,
    SECRET,
    RecordingReceiver,
    a_webhook,
    run_receiver,
)

ID = UUID(int=5)
NOW = datetime.now(UTC)
BODY = b'{"type":"incident.opened","data":{"camera":"dock \xc3\xbc"}}'


def now() -> datetime:
    return datetime.now(UTC)


def to(url: str, *, allow_private: bool = True) -> Webhook:
    return a_webhook(url, egress_policy=ALLOW_ALL if allow_private else EgressPolicy())


def posted(receiver: RecordingReceiver) -> DeliveryOutcome:
    with run_receiver(receiver):
        return to(receiver.url).send(ID, BODY, now())


def test_reference_library_verifies_what_is_posted() -> None:
    receiver = RecordingReceiver()
    assert posted(receiver) == Delivered(status=204)
    (request,) = receiver.posts
    assert request.body == BODY
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == str(ID)
    assert request.path == "/hook?key=canary-in-url"
    standardwebhooks.Webhook(SECRET).verify(request.body, request.headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(request.body + b" ", request.headers)


def test_signature_is_that_of_the_reference_library() -> None:
    at = now()
    reference = standardwebhooks.Webhook(SECRET).sign(str(ID), at, BODY.decode())
    assert sign(SECRET, str(ID), at, BODY) == reference


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_every_2xx_is_success(status: int) -> None:
    assert posted(RecordingReceiver(status=status)) == Delivered(status=status)


def asked_by(outcome: DeliveryOutcome) -> tuple[str, timedelta]:
    assert isinstance(outcome, Retry)
    return outcome.reason, outcome.after


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_other_answers_are_tried_again(status: int) -> None:
    assert asked_by(posted(RecordingReceiver(status=status))) == (f"status {status}", timedelta())


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_busy_receiver_is_left_alone_for_a_while(status: int) -> None:
    assert asked_by(posted(RecordingReceiver(status=status))) == (
        f"status {status}",
        DEFAULT_RETRY_AFTER,
    )


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_a_failure_and_never_followed(status: int) -> None:
    with run_receiver() as elsewhere:
        redirecting = RecordingReceiver(status=status, headers={"Location": elsewhere.url})
        assert asked_by(posted(redirecting)) == (f"status {status}", timedelta())
        assert elsewhere.posts == []


def test_gone_is_refused() -> None:
    assert isinstance(posted(RecordingReceiver(status=410)), Refused)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_retry_after_is_heard(status: int) -> None:
    asked = RecordingReceiver(status=status, headers={"Retry-After": "120"})
    assert asked_by(posted(asked)) == (f"status {status}", timedelta(seconds=120))


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        (format_datetime(NOW + timedelta(minutes=10), usegmt=True), 599, 600),
        (format_datetime(NOW - timedelta(minutes=10), usegmt=True), 0, 0),
        ("9" * 300, 86400, 86400),
        ("soon", 30, 30),
        ("-5", 30, 30),
        ("", 30, 30),
        ("0" * 12 + "7", 7, 7),
        (f"{NOW + timedelta(minutes=10):%A, %d-%b-%y %H:%M:%S GMT}", 599, 600),
        (f"{NOW + timedelta(minutes=10):%a %b %d %H:%M:%S %Y}", 599, 600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86400, 86400),
        *((value, 30, 30) for value in WORST_RETRY_AFTERS),
    ],
    ids=map(str, count()),  # some hold the time of day
)
def test_retry_after_in_every_form_stays_within_a_day(value: str, low: int, high: int) -> None:
    with run_receiver(RecordingReceiver(status=429, headers={"Retry-After": value})) as receiver:
        outcome = to(receiver.url).send(ID, BODY, NOW)
    assert isinstance(outcome, Retry)
    assert low <= outcome.after.total_seconds() <= high


def test_dates_of_http_are_in_utc_wherever_longwatch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        outcome = outcome_from_status(
            503, f"{NOW + timedelta(minutes=10):%a %b %d %H:%M:%S %Y}", NOW
        )
    finally:
        monkeypatch.undo()
        time.tzset()
    assert isinstance(outcome, Retry)
    assert 599 <= outcome.after.total_seconds() <= 600


def test_retry_after_of_another_status_is_not_heard() -> None:
    outcome = posted(RecordingReceiver(status=400, headers={"Retry-After": "120"}))
    assert asked_by(outcome) == ("status 400", timedelta())


def test_receiver_that_is_down_is_tried_again() -> None:
    with run_receiver() as receiver:
        pass
    outcome = to(receiver.url).send(ID, BODY, now())
    assert isinstance(outcome, Retry)
    assert outcome.reason.startswith("cannot connect: ")


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64 + ".example", "a..example"])
def test_name_that_cannot_be_resolved_is_tried_again(host: str) -> None:
    outcome = to(f"http://{host}/hook").send(ID, BODY, now())
    assert isinstance(outcome, Retry)
    assert outcome.reason.startswith(f"cannot connect: {host}: ")


def test_address_that_answers_is_found_behind_one_that_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        stream = connect_first(["127.0.0.2", "127.0.0.1"], port, time.monotonic() + 5)
        stream.close()
        with pytest.raises(httpcore.ConnectError):
            connect_first(["127.0.0.2", "127.0.0.3"], port, time.monotonic() + 5)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT", timedelta(seconds=1))


@pytest.mark.usefixtures("hurried")
def test_silent_receiver_is_left_after_the_timeout() -> None:
    began = time.monotonic()
    assert isinstance(posted(RecordingReceiver(delay=3)), Retry)
    assert time.monotonic() - began < 2.5


@contextmanager
def talking(*, prologue: bytes, drip: bytes) -> Iterator[str]:
    """Answer one connection with a prologue and then a drip every 0.1 s, for ever."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                try:
                    connection.sendall(prologue)
                    while not done.wait(0.1):
                        connection.sendall(drip)
                except OSError:
                    return

        thread = threading.Thread(target=talk)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        done.set()
        thread.join()


@pytest.mark.usefixtures("hurried")
def test_receiver_that_drips_its_answer_cannot_hold_the_courier() -> None:
    began = time.monotonic()
    with talking(prologue=b"HTTP/1.1 200 OK\r\nx: ", drip=b"x") as url:
        outcome = to(url).send(ID, BODY, now())
    assert isinstance(outcome, Retry)
    assert time.monotonic() - began < 2.5


def test_answer_body_is_not_read() -> None:
    endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    began = time.monotonic()
    with talking(prologue=endless, drip=b"3\r\nabc\r\n") as url:
        assert to(url).send(ID, BODY, now()) == Delivered(status=200)
    assert time.monotonic() - began < 2


def test_what_is_no_http_is_tried_again() -> None:
    with talking(prologue=b"SSH-2.0-OpenSSH\r\n", drip=b"\r\n") as url:
        outcome = to(url).send(ID, BODY, now())
    assert asked_by(outcome)[0] == "the connection broke: RemoteProtocolError"


def test_connection_that_is_reset_is_tried_again() -> None:
    def reset() -> None:
        connection, _ = server.accept()
        connection.recv(1)
        # Closing with lingering 0 sends RST.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=reset)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        outcome = to(url).send(ID, BODY, now())
        thread.join()
    assert asked_by(outcome)[0].startswith("the connection broke: ")


def test_answer_of_ten_gigabytes_costs_nothing() -> None:
    huge = b"HTTP/1.1 200 OK\r\nContent-Length: 10737418240\r\n\r\n" + bytes(1 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with talking(prologue=huge, drip=bytes(1 << 20)) as url:
        assert to(url).send(ID, BODY, now()) == Delivered(status=200)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with run_receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert posted(RecordingReceiver()) == Delivered(status=204)
        assert proxy.posts == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::1]"])
def test_private_address_is_not_posted_to_under_any_name(host: str) -> None:
    with run_receiver() as receiver:
        url = receiver.url.replace("127.0.0.1", host)
        outcome = to(url, allow_private=False).send(ID, BODY, now())
    assert isinstance(outcome, Retry)
    assert outcome.reason.endswith("is not a public address")
    assert "`allow`" in outcome.hint
    assert receiver.posts == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "192.0.0.8", "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1",
        "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1",
        "::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1", "2001:db8::1",
    ],
)  # fmt: skip
def test_address_of_one_s_own_network_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111"])
def test_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "allow_private"),
    [
        ("http://soc.example/hook", False),
        ("ftp://soc.example/hook", True),
        ("https:///hook", True),
        ("https://soc.example:port/hook", True),
        ("https://user:canary@soc.example/hook", True),
        ("https://soc.exämple/hook", True),
        ("https://soc.example/ho ok", True),
        ("https://soc.example/\r\nx: y", True),
        ("canary", True),
    ],
)
def test_url_that_cannot_be_posted_to_is_refused_unseen(url: str, allow_private: bool) -> None:
    with pytest.raises(ValueError, match="url must") as refused:
        check_url(url, allowed=EgressAllowlist(everything=allow_private))
    assert "canary" not in str(refused.value)


def test_usable_urls_pass() -> None:
    check_url("https://soc.example:8443/hook?key=1", allowed=EgressAllowlist())
    check_url("http://10.0.0.5/hook", allowed=EgressAllowlist(everything=True))


@pytest.mark.parametrize(
    "secret",
    ["", "canary", "whsec_", "whsec_canary", "whsec_" + "A" * 28, "whsec_" + "A" * 400, "whsec_ä"],
)
def test_secret_that_is_none_is_refused_unseen(secret: str) -> None:
    with pytest.raises(ValueError, match="secret must be whsec_") as refused:
        signing_key(secret)
    assert "canary" not in str(refused.value)
    assert refused.value.__context__ is None or "canary" not in str(refused.value.__context__)


def test_secret_holds_24_to_64_bytes() -> None:
    for size in (24, 64):
        key = bytes(range(size))
        assert signing_key("whsec_" + base64.b64encode(key).decode()) == key


def test_webhook_shows_neither_url_nor_secret() -> None:
    assert repr(to("https://soc.example/canary")) == "Webhook(name='soc')"


def own_certificate(folder: Path) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def test_certificate_is_checked_against_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = own_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with run_receiver(RecordingReceiver(), context) as receiver:
        by_name = to(receiver.url.replace("127.0.0.1", "localhost"))
        unknown = by_name.send(ID, BODY, now())
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusted = by_name.send(ID, BODY, now())
        misnamed = to(receiver.url).send(ID, BODY, now())
    assert trusted == Delivered(status=204)
    assert isinstance(unknown, Retry)
    assert isinstance(misnamed, Retry)
    assert "certificate verify failed" in unknown.reason
    assert "certificate verify failed" in misnamed.reason
    assert len(receiver.posts) == 1

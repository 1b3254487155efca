"""A real HTTP receiver that does as it is told, and what it was sent."""

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from alerts.incidents.publisher import Publisher
from alerts.notify.egress import EgressAllowlist
from alerts.notify.http import EgressPolicy
from alerts.notify.webhook import Webhook
from alerts.rules.rule import Rule
from storage.clock import ClockReading
from storage.db.alert_store import AlertStore
from storage.log.log import Log

ALLOW_ALL = EgressPolicy(allowed=EgressAllowlist(everything=True))
SECRET = "whsec_" + "bG9uZ3dhdGNoLWxvbmd3YXRjaC1sb25nd2F0Y2g="

FOREVER = timedelta(days=1000)
BAG_RULE = Rule(name="bag", question="bag", above=0.8, below=0.5, notify=("soc",))
LOG_UNREACHABLE_RULE = Rule(
    name="log-away",
    question="health/log_unreachable",
    above=0.5,
    below=0.5,
    stale_after=FOREVER,
    notify=("soc",),
)


def publish_all(log: Log, store: AlertStore) -> Log:
    """Append to a log all that the database keeps for it, and return it."""
    publisher = Publisher(log, store)
    while publisher.run_once():
        pass
    return log


def a_webhook(
    url: str, name: str = "soc", egress_policy: EgressPolicy = ALLOW_ALL, secret: str = SECRET
) -> Webhook:
    """A webhook that may be on this machine."""
    return Webhook(name=name, url=url, secrets=(secret,), egress=egress_policy)


@dataclass
class ReceivedPost:
    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)


@dataclass
class RecordingReceiver:
    """Answers with `status` and `headers` after `pause` seconds."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    posts: list[ReceivedPost] = field(default_factory=list)
    url: str = ""

    def ids(self) -> list[str]:
        return [post.headers["webhook-id"] for post in self.posts]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    receiver: RecordingReceiver


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        receiver = self.server.receiver  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        receiver.posts.append(ReceivedPost(self.path, headers, body))
        time.sleep(receiver.delay)
        self.send_response(receiver.status)
        for name, value in receiver.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@contextmanager
def run_receiver(
    receiver: RecordingReceiver | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[RecordingReceiver]:
    receiver = receiver or RecordingReceiver()
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.receiver = receiver
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        receiver.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}/hook?key=canary-in-url"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


class ManualClock:
    """A clock that is set by hand; the monotonic one goes with it."""

    def __init__(self, now: datetime) -> None:
        self._began = self.now = now

    def __call__(self) -> ClockReading:
        passed = self.now - self._began
        return ClockReading(wall=self.now, monotonic=passed.total_seconds())

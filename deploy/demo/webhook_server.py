"""The demo's receiver, an HTTP server that verifies the signatures of webhooks."""

import hmac
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue

from alerts.dispatch.messages import MAX_BODY_BYTES
from alerts.notify.webhook import sign

SIGNATURE_TOLERANCE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookReceipt:
    """A received webhook: its id, event type and whether its signature is valid."""

    id: str
    kind: str
    is_verified: bool


class WebhookServer(ThreadingHTTPServer):
    """An HTTP server on the loopback interface; it puts each webhook into `receipts`."""

    def __init__(self, secret: str) -> None:
        super().__init__(("127.0.0.1", 0), _WebhookHandler)
        self.secret = secret
        self.receipts: SimpleQueue[WebhookReceipt] = SimpleQueue()

    @property
    def url(self) -> str:
        """Return the URL to post to."""
        return f"http://127.0.0.1:{self.server_port}/hook"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve in a thread until the block ends."""
        thread = threading.Thread(target=self.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


class _WebhookHandler(BaseHTTPRequestHandler):
    server: WebhookServer

    def do_POST(self) -> None:
        length = min(int(self.headers.get("content-length", 0)), MAX_BODY_BYTES)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(length)
        verified = is_signed(self.server.secret, headers, body, datetime.now(UTC))
        kind = json.loads(body)["type"] if verified else ""
        self.server.receipts.put(
            WebhookReceipt(id=headers.get("webhook-id", ""), kind=kind, is_verified=verified)
        )
        self.send_response(204 if verified else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing: stderr belongs to the demo."""


def is_signed(secret: str, headers: Mapping[str, str], body: bytes, now: datetime) -> bool:
    """Return whether the Standard Webhooks signature is valid and was made near `now`."""
    timestamp = headers.get("webhook-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= len("9999999999")):
        return False
    sent = datetime.fromtimestamp(int(timestamp), UTC)
    expected = sign(secret, headers.get("webhook-id", ""), sent, body).encode()
    given = headers.get("webhook-signature", "").encode().split()
    signed = any(hmac.compare_digest(expected, one) for one in given)
    return signed and abs(now - sent) <= SIGNATURE_TOLERANCE

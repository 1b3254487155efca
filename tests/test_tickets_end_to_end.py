"""From a camera and from findings to the bytes that a real receiver gets."""

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import standardwebhooks
from PIL import Image

from alerts.dispatch.describer import Describer, QuestionWording
from alerts.dispatch.dispatcher import Dispatcher
from alerts.dispatch.heartbeat import Heartbeat
from alerts.dispatch.messages import MessageOrigin, build_test_body
from alerts.intake.progress_check import ProgressCheck
from alerts.notify.courier import Courier
from alerts.notify.pagerduty import PagerDuty
from alerts.notify.receivers import Receiver as Way
from alerts.rules.rule import Rule
from alerts.worker import AlertsWorker
from ingest.camera import Camera
from ingest.worker import CameraWorker
from kit.alerts.routing import AT_ONCE
from kit.alerts.webhook_receiver import (
    ALLOW_ALL,
    SECRET,
    RecordingReceiver,
    a_webhook,
    publish_all,
    run_receiver,
)
from kit.storage.fixtures import START, a_finding
from storage.db.alert_store import AlertStore
from storage.log.memory_log import MemoryLog
from storage.records.records import EvidenceMoment, IncidentState
from storage.records.topics import COVERAGE, FINDINGS, INCIDENTS
from storage.records.wire import decode_incident, encode_finding

SCHEMA = json.loads((Path(__file__).parent.parent / "alerts/schemas/message.v3.json").read_text())
ASK = "Is there a bag that nobody is with?"
BAG = Rule(name="bag-left", question="bag", above=0.8, below=0.5, severity="high", notify=("soc",))
DOWN = Rule(
    name="camera-down",
    question="health/camera_down",
    above=0.5,
    below=0.5,
    stale_after=timedelta(days=1000),
    notify=("soc",),
)
DESCRIBER = Describer(
    rules=(BAG, DOWN),
    questions={"bag": QuestionWording(ask=ASK, version="q1")},
    titles={"dock": "Loading dock"},
    external_url="https://watch.example",
    origin=MessageOrigin(site="hamburg", labels={"team": "dock"}),
)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


def a_judge(log: MemoryLog, store: AlertStore) -> AlertsWorker:
    return AlertsWorker(log, store, (BAG, DOWN), lambda seconds: None)


def sent(
    store: AlertStore, receiver: RecordingReceiver, way: Way, now: datetime = START
) -> list[Any]:
    """Route and deliver what waits; return the bodies that came, each of them as JSON."""
    dispatcher = Dispatcher(store, AT_ONCE, describer=DESCRIBER)
    before = len(receiver.posts)
    dispatcher.run_once(now)
    Courier(store, [way]).run_once(now)
    return [json.loads(post.body) for post in receiver.posts[before:]]


def checked(message: Any) -> Any:
    jsonschema.validate(message, SCHEMA, format_checker=jsonschema.FormatChecker())
    return message


def test_webhook_tells_all_that_a_ticket_needs(
    tmp_path: Path, log: MemoryLog, store: AlertStore
) -> None:
    log.append(FINDINGS, "dock", encode_finding(a_finding(score=0.93)))
    a_judge(log, store).run_once()
    (incident,) = store.incidents()
    still = tmp_path / str(incident.id) / EvidenceMoment.AT / "20261122T080015.250000Z.jpg"
    still.parent.mkdir(parents=True)
    Image.new("RGB", (96, 64)).save(still, "JPEG")
    now = datetime.now(UTC)
    with run_receiver() as receiver:
        webhook = replace(a_webhook(receiver.url), stills=tmp_path)
        (message,) = sent(store, receiver, webhook, now)
    (post,) = receiver.posts
    standardwebhooks.Webhook(SECRET).verify(post.body, post.headers)
    data = checked(message)["data"]
    assert (data["site"], data["labels"]) == ("hamburg", {"team": "dock"})
    (told,) = data["incidents"]
    expected = {
        "id": str(incident.id),
        "camera": "dock",
        "rule": "bag-left",
        "severity": "high",
        "state": "open",
        "question": "bag",
        "ask": ASK,
        "score": 0.93,
        "since": START.isoformat(),
        "camera_title": "Loading dock",
        "summary": f"Loading dock: {ASK} yes since 2026-11-22 08:00:00Z",
        "url": f"https://watch.example/incidents/{incident.id}",
    }
    assert {name: told[name] for name in expected} == expected
    with Image.open(io.BytesIO(standard_base64(told["still"]["data"]))) as picture:
        assert picture.size == (96, 64)
    stored = [store.delivery_body(delivery) or b"" for delivery in store.deliveries()]
    assert b"still" not in stored[0]


def standard_base64(text: str) -> bytes:
    import base64

    return base64.b64decode(text, validate=True)


def test_pagerduty_hears_the_site_and_the_link(log: MemoryLog, store: AlertStore) -> None:
    log.append(FINDINGS, "dock", encode_finding(a_finding(score=0.93)))
    a_judge(log, store).run_once()
    with run_receiver(RecordingReceiver(status=202)) as receiver:
        service = PagerDuty(name="soc", routing_key="0" * 32, url=receiver.url, egress=ALLOW_ALL)
        (page,) = sent(store, receiver, service)
    payload = page["payload"]
    assert (payload["source"], payload["component"]) == ("hamburg/dock", "dock")
    details = payload["custom_details"]
    assert (details["site"], details["labels"]) == ("hamburg", {"team": "dock"})
    assert (details["ask"], details["score"]) == (ASK, 0.93)
    assert payload["summary"].startswith("Loading dock: ")
    (link,) = page["links"]
    assert link["href"] == f"https://watch.example/incidents/{page['dedup_key']}"


def test_heartbeats_and_tests_name_the_site(store: AlertStore) -> None:
    beat = Heartbeat(every=timedelta(minutes=1), notify=("soc",))
    pulse = AlwaysBeating()
    dispatcher = Dispatcher(store, AT_ONCE, beat, pulse, describer=DESCRIBER)
    assert dispatcher.run_once(START) == 1
    (delivery,) = store.deliveries()
    for body in (store.delivery_body(delivery), build_test_body("soc", START, DESCRIBER.origin)):
        assert checked(json.loads(body or b""))["data"]["site"] == "hamburg"


class AlwaysBeating(ProgressCheck):
    """A check that always finds progress."""

    def __init__(self) -> None:
        pass

    def observe(self) -> bool:
        return True


class _Refusing(BaseHTTPRequestHandler):
    """A camera with a password that is not the one we have."""

    def do_GET(self) -> None:
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@contextmanager
def a_refusing_camera(status: int = 401) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        server.status = status  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_camera_that_is_down_says_why_up_to_the_webhook(log: MemoryLog, store: AlertStore) -> None:
    stop, tries = threading.Event(), []

    def promise(seconds: float) -> None:
        tries.append(seconds)
        if len(tries) % 2 == 0:  # one to connect, one when it is lost
            stop.set()

    with a_refusing_camera() as server:
        port = server.server_address[1]
        url = f"http://guard:canary-password@127.0.0.1:{port}/"
        watcher = CameraWorker(Camera(name="dock", url=url), log, promise)
        watcher.run(stop)
        why = f"127.0.0.1:{port} refuses the user or the password: check both in the url"
        judge = a_judge(log, store)
        judge.run_once()
        (incident,) = store.incidents()
        assert (incident.state, incident.reason) == (IncidentState.OPEN, why)
        with run_receiver() as receiver:
            (message,) = sent(store, receiver, a_webhook(receiver.url))
            (told,) = checked(message)["data"]["incidents"]
            assert told["reason"] == why
            assert told["summary"].startswith("Loading dock: no video since ")
            assert told["summary"].endswith(f": {why}")

            server.status = 404  # type: ignore[attr-defined]
            stop.clear()
            watcher.run(stop)
            judge.run_once()
            later = f"127.0.0.1:{port} has no such stream: check the path in the url"
            (incident,) = store.incidents()
            assert incident.reason == later
            (again,) = sent(store, receiver, a_webhook(receiver.url), START + timedelta(hours=5))
            assert again["data"]["incidents"][0]["reason"] == later
    on_the_log = [
        decode_incident(entry.value).reason for entry in publish_all(log, store).read(INCIDENTS, 0)
    ]
    assert list(dict.fromkeys(on_the_log)) == [why, later]
    everything = [entry.value for topic in (COVERAGE, INCIDENTS) for entry in log.read(topic, 0)]
    everything += [post.body for post in receiver.posts]
    assert not [value for value in everything if b"canary-password" in value]

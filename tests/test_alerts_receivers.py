"""PagerDuty and apprise, against real servers."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from alerts.dispatch.messages import (
    VERSION,
    build_test_body,
    message_text,
    message_title,
    parse_message,
)
from alerts.notify import apprise_process
from alerts.notify.apprise import AppriseReceiver, check_apprise_url
from alerts.notify.apprise_services import is_network_service
from alerts.notify.egress import EgressAllowlist, parse_allowlist
from alerts.notify.outcomes import Delivered, DeliveryOutcome, Retry
from alerts.notify.pagerduty import PagerDuty
from kit.alerts.webhook_receiver import ALLOW_ALL, RecordingReceiver, a_webhook, run_receiver
from kit.storage.fixtures import an_incident
from storage.records.records import Incident, IncidentState
from storage.records.wire import incident_fields

NOW = datetime.now(UTC)
KEY = "canary" + "0" * 26
ID = UUID(int=5)


def a_body(*incidents: Incident, part: int = 1, parts: int = 1) -> bytes:
    told = [incident_fields(each) | {"summary": f"bag-left on {each.camera}"} for each in incidents]
    data = {"receiver": "soc", "group": {"camera": "dock"}, "part": part, "parts": parts}
    fields = {"version": VERSION, "type": "incidents.firing", "timestamp": NOW.isoformat()}
    return json.dumps(fields | {"data": data | {"incidents": told}}).encode()


def incidents() -> list[Incident]:
    opened = an_incident()
    resolved = replace(an_incident(state=IncidentState.RESOLVED), id=UUID(int=8), camera="yard")
    return [opened, resolved]


def paged(body: bytes, receiver: RecordingReceiver) -> DeliveryOutcome:
    service = PagerDuty(name="oncall", routing_key=KEY, url=receiver.url, egress=ALLOW_ALL)
    return service.send(ID, body, NOW)


def events(receiver: RecordingReceiver) -> list[dict[str, Any]]:
    return [json.loads(post.body) for post in receiver.posts]


def test_pagerduty_hears_one_event_of_each_incident() -> None:
    with run_receiver(RecordingReceiver(status=202)) as receiver:
        assert paged(a_body(*incidents()), receiver) == Delivered(status=202)
    first, second = events(receiver)
    assert (first["event_action"], second["event_action"]) == ("trigger", "resolve")
    assert (first["dedup_key"], second["dedup_key"]) == (str(UUID(int=7)), str(UUID(int=8)))
    assert first["routing_key"] == KEY
    payload = first["payload"]
    assert (payload["summary"], payload["source"]) == ("bag-left on dock", "dock")
    assert (payload["severity"], payload["class"]) == ("error", "bag-left")
    assert payload["custom_details"]["evidence"] == list(an_incident().evidence)


def test_acknowledged_incident_is_acknowledged_at_pagerduty() -> None:
    body = a_body(an_incident()).replace(b'"state": "open"', b'"state": "acknowledged"')
    with run_receiver(RecordingReceiver(status=202)) as receiver:
        paged(body, receiver)
    assert [event["event_action"] for event in events(receiver)] == ["acknowledge"]


def test_pagerduty_that_fails_is_tried_again_from_the_first_event() -> None:
    with run_receiver(RecordingReceiver(status=500)) as receiver:
        outcome = paged(a_body(*incidents()), receiver)
        assert isinstance(outcome, Retry)
        assert len(receiver.posts) == 1
        receiver.status = 202
        assert isinstance(paged(a_body(*incidents()), receiver), Delivered)
    keys = [event["dedup_key"] for event in events(receiver)]
    assert keys == [str(UUID(int=7)), str(UUID(int=7)), str(UUID(int=8))]


def test_test_of_pagerduty_leaves_nothing_open() -> None:
    with run_receiver(RecordingReceiver(status=202)) as receiver:
        paged(build_test_body("oncall", NOW), receiver)
    assert [event["event_action"] for event in events(receiver)] == ["trigger", "resolve"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"version": 1}', b'{"version": 3}', b"null"])
def test_body_that_is_no_message_is_kept_for_a_later_version(body: bytes) -> None:
    with run_receiver() as receiver:
        outcome = paged(body, receiver)
    assert isinstance(outcome, Retry)
    assert outcome.reason.startswith("the delivery cannot be read")
    assert receiver.posts == []


def test_text_tells_of_every_incident() -> None:
    message = parse_message(a_body(*incidents()))
    assert message_title(message) == "[firing] 2 incidents: camera dock"
    assert message_text(message).splitlines() == [
        f"bag-left on dock: high, open, 2026-11-22T08:00:16.250000+00:00, {UUID(int=7)}",
        f"bag-left on yard: high, resolved, 2026-11-22T08:00:48.250000+00:00, {UUID(int=8)}",
    ]
    second = parse_message(a_body(*incidents(), part=2, parts=3))
    assert message_title(second) == "[firing 2/3] 2 incidents: camera dock"
    assert message_title(parse_message(a_body(an_incident()))) == "[firing] bag-left on dock"


def notified(
    receiver: RecordingReceiver, allowed: EgressAllowlist, path: str = "canary-token"
) -> DeliveryOutcome:
    url = receiver.url.replace("http://", "json://").replace("/hook?key=canary-in-url", f"/{path}")
    service = AppriseReceiver(name="chat", url=url, allowed=allowed)
    return service.send(ID, a_body(an_incident()), NOW)


@pytest.mark.slow
def test_apprise_sends_the_text() -> None:
    with run_receiver(RecordingReceiver(status=200)) as receiver:
        assert notified(receiver, parse_allowlist(["127.0.0.1"])) == Delivered()
    (post,) = receiver.posts
    told = json.loads(post.body)
    assert told["title"] == "[firing] bag-left on dock"
    assert told["message"].startswith("bag-left on dock: high, open")


@pytest.mark.slow
def test_apprise_reaches_no_private_address_unless_it_is_allowed() -> None:
    with run_receiver(RecordingReceiver(status=200)) as receiver:
        outcome = notified(receiver, EgressAllowlist())
    assert receiver.posts == []
    assert isinstance(outcome, Retry)
    assert outcome.reason == "127.0.0.1 is not a public address"
    assert "`allow`" in outcome.hint


@pytest.mark.slow
def test_apprise_follows_no_redirect_to_what_is_not_allowed() -> None:
    location = {"Location": "http://169.254.169.254/latest/"}
    with run_receiver(RecordingReceiver(status=307, headers=location)) as receiver:
        outcome = notified(receiver, parse_allowlist(["127.0.0.1"]), "x?redirect=yes")
    assert isinstance(outcome, Retry)


@pytest.mark.slow
def test_apprise_that_fails_says_so_without_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")
    with run_receiver(RecordingReceiver(status=500)) as receiver:
        outcome = notified(receiver, parse_allowlist(["127.0.0.1"]))
    assert isinstance(outcome, Retry)
    assert outcome.reason.startswith("apprise: ")
    assert "canary" not in outcome.reason
    assert len(receiver.posts) == 1


def printed(report: str, then: str = "") -> DeliveryOutcome:
    """Return the outcome of a process that prints a report and does something more."""
    command = (sys.executable, "-S", "-c", f"import os; os.write(1, {report.encode()!r}); {then}")
    service = AppriseReceiver(name="chat", url="json://canary", command=command)
    return service.send(ID, a_body(an_incident()), NOW)


@pytest.mark.parametrize(
    "report", ["", "warning: x", '{"sent": tr', "[]", "null", '{"sent": true}', '{"sent": 1}']
)
def test_apprise_that_prints_no_report_is_tried_again(report: str) -> None:
    assert printed(report) == Retry(reason="apprise ended without a report")


@pytest.mark.parametrize(
    ("then", "ending"),
    [
        ("os.kill(os.getpid(), 9)", "signal SIGKILL"),
        ("os.kill(os.getpid(), 40)", "signal 40"),
        ("os._exit(3)", "exit code 3"),
    ],
)
def test_apprise_that_ends_badly_is_tried_again(then: str, ending: str) -> None:
    report = '{"sent": true, "reason": "", "hint": ""}'
    assert printed(report) == Delivered()
    assert printed(report, then) == Retry(reason=f"apprise ended with {ending}")


def test_reason_of_apprise_is_one_line_that_every_database_takes() -> None:
    outcome = printed('{"sent": false, "reason": "a\\u0000b\\n\\ud800c", "hint": "\\u001b[31m"}')
    assert outcome == Retry(reason="a b c", hint="[31m")


def test_apprise_without_a_file_descriptor_is_tried_again() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open() as free:
        lowest = free.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        outcome = notified(RecordingReceiver(url="http://127.0.0.1/hook"), EgressAllowlist())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert isinstance(outcome, Retry)
    assert outcome.reason == "this machine cannot send: Too many open files"


def test_machine_without_its_authorities_is_a_failed_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certifi.where", lambda: "/nowhere/at/all")
    with run_receiver() as receiver:
        url = receiver.url.replace("http:", "https:")
        outcome = a_webhook(url).send(ID, a_body(an_incident()), NOW)
    assert isinstance(outcome, Retry)
    assert outcome.reason == "this machine cannot send: No such file or directory"


def test_every_part_of_an_apprise_url_is_blotted_out() -> None:
    expected = "cannot post to tokenA1 of user name at host.example"
    url = "slack://user%20name:pw@host.example/tokenA1/x"
    assert apprise_process.redact_url(expected, url) == "cannot post to *** of *** at ***"


@pytest.mark.parametrize("url", ["canary", "canary://x", "json://", "slack://canary"])
def test_apprise_url_that_names_no_service_is_refused_unseen(
    url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="no service of apprise") as refused:
        check_apprise_url(url)
    assert "canary" not in str(refused.value) + "".join(capfd.readouterr())


def test_apprise_knows_mail_chats_and_mqtt() -> None:
    check_apprise_url("mailto://guard:secret@mail.example?to=soc@mail.example")
    check_apprise_url("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/")


OF_THIS_MACHINE = {
    "blink1", "dbus", "gio", "glib", "gnome", "kde", "macosx", "qt", "syslog", "windows"
}  # fmt: skip


def test_every_installed_service_but_those_of_this_machine_is_of_the_network() -> None:
    from apprise.manager_plugins import NotificationManager

    plugins = NotificationManager()
    plugins.load_modules()
    refused = {name for name in plugins.schemas() if not is_network_service(plugins[name])}
    assert len(plugins.schemas()) > 200
    assert refused == OF_THIS_MACHINE


WORKFLOW = "workflows://host.example/WorkflowID/Signature/"
FILES = [
    WORKFLOW + "?template=/etc/passwd", WORKFLOW + "?TEMPLATE=file:///etc/passwd",
    "discord://webhookid0/token0?template=/etc/passwd",
    "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/?template=/etc/passwd",
    "tgram://123456789:abcdefg_hijklmnop/12315544/?template=/etc/passwd",
    "mailtos://u:p@mail.example?pgp=yes&pgppub=/etc/passwd",
    "json://host.example/?config=/etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize(
    "url",
    [
        "syslog://", "syslog://local7", "json://host.example/,syslog://",
        "json://host.example/ syslog://local7", *FILES,
    ],
)  # fmt: skip
def test_apprise_url_that_reaches_for_this_machine_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="of this machine") as refused:
        check_apprise_url(url)
    assert "host.example" not in str(refused.value)


def test_apprise_template_that_is_no_file_is_taken() -> None:
    check_apprise_url(WORKFLOW)
    check_apprise_url(f"onesignal://template:{'a' * 36}@{'b' * 48}/player?image=no")


GUARDED = """\
import os, subprocess, sys
from alerts.notify.egress import EgressAllowlist
from alerts.notify.apprise_process import SandboxHook
guard = SandboxHook(EgressAllowlist(everything=True))
guard.is_sealed = True
sys.addaudithook(guard)
def attempt(work):
    try:
        work()
    except PermissionError:
        return "refused"
    return "done"
print(attempt(lambda: open(sys.argv[1])), attempt(lambda: open(sys.argv[1], "w")),
      attempt(lambda: os.remove(sys.argv[1])), attempt(lambda: subprocess.run(["true"])),
      attempt(lambda: os.system("true")), attempt(lambda: __import__("colorsys")),
      attempt(lambda: __import__("mimetypes").init()), attempt(lambda: open(os.devnull, "w")))
"""


def test_process_of_apprise_opens_no_file_and_starts_no_program(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("kept")
    command = [sys.executable, "-B", "-c", GUARDED, str(secret)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["refused"] * 5 + ["done"] * 3
    assert secret.read_text() == "kept"


def test_receivers_show_no_secret() -> None:
    service = PagerDuty(name="oncall", routing_key=KEY)
    chat = AppriseReceiver(name="chat", url="slack://canary")
    assert "canary" not in repr(service) + repr(chat)

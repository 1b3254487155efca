"""A unique secret in every place that takes one, what may fail made to fail, and nothing shown."""

import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

import pytest

from deploy.config.data_dir import LOG_FILE, database_url
from deploy.config.environment import secrets_in
from deploy.config.settings_file import read_settings
from deploy.logs.setup import LoggingConfig
from deploy.runtime.process import ProcessRole
from deploy.runtime.role_builder import build_alert_role, build_ingest_role
from deploy.runtime.supervisor import Supervisor
from kit.deploy import roles
from kit.deploy.command import Command
from kit.ingest.fixtures import free_port
from kit.storage.fixtures import a_delivery, a_finding, an_incident, by_rule
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.db.outbox import Outbox
from storage.log.sqlite.log import SqliteLog
from storage.records.topics import FINDINGS
from storage.records.wire import encode_finding

CAMERA = "c4n4ry/c@mera"
HOOK, QUERY, CHAT, KEY = "c4n4ry-hook", "c4n4ry-query", "c4n4ryChatToken", "c4n4ry" + "K" * 26
SIGNING = "whsec_" + "c4n4ry" + "A" * 26
OLDER = "whsec_" + "c4n4ry" + "B" * 26
SITE = f"""\
cameras:
  dock: {{url: "rtsp://guard:{quote(CAMERA, safe="")}@127.0.0.1:{{closed}}/sub", window: 4s}}
questions:
  bag: {{ask: "Is there a bag?", every: 4s}}
route: {{group_wait: 0s}}
rules:
  - {{name: always, when: bag, above: 0.1, notify: [hook, pager, chat]}}
receivers:
  hook:
    webhook:
      url: "http://127.0.0.1:{{closed}}/{HOOK}?key={QUERY}"
      secrets: ["{SIGNING}", "{OLDER}"]
      allow: [127.0.0.0/8]
  pager:
    pagerduty:
      routing_key: {KEY}
      url: "http://127.0.0.1:{{closed}}/{HOOK}"
      allow_private: true
  chat:
    apprise: {{url: "json://guard:{CHAT}@127.0.0.1:{{closed}}/{CHAT}", allow: [127.0.0.1]}}
"""


@pytest.fixture(name="site")
def make_site(tmp_path: Path) -> Path:
    file = tmp_path / "site.yaml"
    file.write_text(SITE.replace("{closed}", str(free_port())))
    return file


@pytest.fixture(name="shown")
def watch_what_is_shown(tmp_path: Path) -> Iterator[list[str]]:
    """Collect what is printed; at the end no canary is in it, nor in a file of the data."""
    shown: list[str] = []
    yield shown
    for file in (tmp_path / "data").glob("**/*"):
        shown.append(file.read_bytes().decode("latin-1") if file.is_file() else "")
    assert [text for text in shown if "c4n4ry" in text or quote(CAMERA, safe="") in text] == []


def crash(site: Path) -> ProcessRole:
    """A role that knows a camera's secret and dies with it in its error."""
    url = read_settings(site).cameras["dock"].url.get_secret_value()
    return roles.CrashingRole(
        name="crash",
        file=site.parent / "crashed",
        secret=quote(CAMERA, safe=""),
        logging=LoggingConfig(secrets=(url,)),
    )


def given(site: Path) -> Outbox:
    """Write a finding to the log, and a delivery to every receiver."""
    data = site.parent / "data"
    data.mkdir()
    with closing(SqliteLog(data / LOG_FILE)) as log:
        log.append(FINDINGS, "dock", encode_finding(a_finding()))
    store = AlertStore(open_database(database_url(data)))
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(replace(an_incident(), camera="dock"))])
        for n, name in enumerate(("hook", "pager", "chat")):
            delivery = replace(a_delivery(1, name), id=UUID(int=90 + n))
            transaction.deliveries.add(delivery, body(), {})
    return Outbox(store)


def body() -> bytes:
    data = {"receiver": "x", "group": {}, "incidents": [incident()]}
    fields = {"version": 3, "type": "incidents.firing", "timestamp": "2026-11-22T08:00:00+00:00"}
    return json.dumps(fields | {"data": data}).encode()


def incident() -> dict[str, str]:
    return {"id": "7", "camera": "dock", "rule": "bag", "severity": "high", "state": "open"}


@pytest.mark.slow
def test_failures_of_cameras_and_receivers_show_no_secret(
    site: Path, shown: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    outbox, settings = given(site), read_settings(site)
    alert, camera = build_alert_role(settings), build_ingest_role(settings, "dock")
    supervisor = Supervisor([alert, camera, crash(site)])

    def all_failed() -> bool:
        supervisor.run_once()
        tried = {each.receiver for each in outbox.deliveries() if each.tried_at}
        return tried == {"hook", "pager", "chat"} and (site.parent / "crashed").exists()

    try:
        wait_for(all_failed, 60)
    finally:
        supervisor.stop_children()
    shown.extend(capfd.readouterr())
    assert "process crashed" in "".join(shown)
    assert all(each.reason for each in outbox.deliveries() if each.tried_at)


@pytest.mark.parametrize("name", ["hook", "pager", pytest.param("chat", marks=pytest.mark.slow)])
def test_receiver_that_cannot_be_reached_is_told_of_without_a_secret(
    site: Path, shown: list[str], command: Command, name: str
) -> None:
    for words in (["test", name], ["test", name, "--json"]):
        result = command("receivers", *words, "-c", site)
        shown.extend((result.stdout, result.stderr))
        assert result.returncode == 1
        assert result.stdout + result.stderr != ""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (f"{HOOK}?key={QUERY}", f"{HOOK} ?key={QUERY}"),
        (SIGNING, f"{SIGNING}!"),
        (KEY, f"{KEY}!"),
        (f"json://guard:{CHAT}", f"nothing://guard:{CHAT}"),
        ("allow: [127.0.0.0/8]", f"allow: [{HOOK}/8]"),
        ("allow_private: true", f"allow_private: {HOOK}"),
        ("rtsp://guard:", "rtp://guard:"),
        (f'secrets: ["{SIGNING}"', f'secrets: {{"{SIGNING}": 1'),
        ("apprise: {", f"apprise: {{{CHAT}: 1, "),
    ],
)
def test_bad_settings_are_told_without_a_secret(
    site: Path, shown: list[str], command: Command, right: str, wrong: str
) -> None:
    text = site.read_text()
    assert right in text
    site.write_text(text.replace(right, wrong))
    result = command("validate", "-c", site)
    assert result.returncode == 2
    shown.extend((result.stdout, result.stderr.replace(f"apprise.{CHAT}", "")))


def test_every_secret_in_the_settings_is_hidden_in_the_logs_of_alerts(site: Path) -> None:
    settings = read_settings(site)
    hidden = {*build_alert_role(settings, logging.INFO).logging.secrets}
    written = {each.get_secret_value() for each in secrets_in(settings.receivers)}
    assert written >= {KEY, SIGNING, OLDER}
    assert written <= hidden


def test_tables_are_searched_whole(tmp_path: Path) -> None:
    """The search of the data's files would find a canary in any table."""
    with closing(sqlite3.connect(tmp_path / "x.db")) as database, database:
        database.execute("CREATE TABLE t (told TEXT)")
        database.execute("INSERT INTO t VALUES (?)", (HOOK,))
    assert b"c4n4ry" in (tmp_path / "x.db").read_bytes()

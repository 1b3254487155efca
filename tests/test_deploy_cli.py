"""The commands as a user runs them."""

import json
import logging
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.config.data_dir import LOG_FILE, database_url
from deploy.config.settings_file import read_settings
from deploy.demo import camera_server
from deploy.demo.camera_server import CameraServerRole
from deploy.logs.setup import LoggingConfig
from deploy.runtime.supervisor import Supervisor
from kit.alerts.webhook_receiver import publish_all
from kit.deploy.command import Command, longwatch, run_longwatch
from kit.ingest.fixtures import free_port
from kit.storage.fixtures import a_delivery, a_finding, an_incident, by_rule
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.log.sqlite.log import SqliteLog
from storage.records.deliveries import Delivery
from storage.records.topics import FINDINGS, INCIDENTS
from storage.records.wire import decode_incident
from storage.role_problems import read_role_problems

CANARY = "c4n4ry-hunter2"
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
SITE = """\
cameras:
  dock: {{url: "{dock}", window: 4s}}
  gate: {{url: "rtsp://guard:{canary}@127.0.0.1:{closed}/sub", window: 4s}}
questions:
  any: {{ask: "Is anything unusual happening?", every: 4s}}
route: {{group_wait: 0s}}
rules:
  - {{name: always, when: any, above: 0.0001, notify: [down]}}
receivers:
  down:
    webhook: {{url: "http://127.0.0.1:{closed}/{canary}", secret: {secret}, allow_private: true}}
model: {{name: {model}}}
"""


def write_site(folder: Path, checkpoint: Path, dock: str) -> Path:
    """Two cameras, nobody at `gate`; a rule that always fires; a receiver that is down."""
    file = folder / "site.yaml"
    names = {"canary": CANARY, "closed": free_port(), "secret": SECRET, "model": checkpoint}
    file.write_text(SITE.format(dock=dock, **names))
    return file


@pytest.fixture(name="site")
def make_site(tmp_path: Path, checkpoint: Path) -> Path:
    return write_site(tmp_path, checkpoint, "rtsp://10.0.0.21/sub")


def test_good_settings_are_called_good(site: Path, command: Command) -> None:
    result = command("validate", "-c", site)
    assert result.returncode == 0
    good, windows = result.stdout.splitlines()
    assert good == f"{site}: good: 2 cameras, 1 questions, 1 rules, 1 receivers"
    assert windows.startswith("windows: ")
    assert json.loads(command("validate", "-c", site, "--json").stdout)["valid"] is True


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("incidents list", 2, "name one with --config FILE or --data DIR"),
        ("incidents list --data {tmp}", 1, "{tmp} contains no longwatch.db: name the data"),
        ("probe rtsp://u:{canary}@127.0.0.1:1/x", 1, "nothing answers at 127.0.0.1:1: check"),
        ("probe rtsp://u:{canary}@cam.invalid/x", 1, "the host of cam.invalid is not known: che"),
        ("probe http://u:{canary}@cam.invalid/x", 1, "the host of cam.invalid is not known: che"),
        ("probe srt://u:{canary}@127.0.0.1:1/x", 2, "srt is not supported: use the camera's"),
        ("probe rtsp://u:{canary}/@127.0.0.1:1/x", 2, "the url cannot be read: write it as"),
        ("probe x.mp4 --transport tls", 2, "--transport: choose tcp or udp"),
        ("backtest -c {tmp}/site.yaml {tmp}/site.yaml", 2, "several cameras: choose one by"),
        ("backtest -c {tmp}/site.yaml {tmp}/site.yaml --camera x", 2, "no camera is called 'x'"),
        ("backtest -c {tmp}/site.yaml {tmp}/site.yaml --camera dock", 1, "is not a video"),
        ("backtest -c {tmp}/site.yaml {tmp}/none.mp4 --camera dock", 1, "it cannot be read (No"),
        ("backtest -c {tmp}/site.yaml {tmp} --camera dock", 1, "{tmp}: it is a directory: name"),
        ("backtest -c {tmp}/site.yaml {tmp}/site.yaml --camera dock --start x", 2, "--start: "),
        (
            "backtest -c {tmp}/site.yaml {tmp}/site.yaml --camera dock --start=",
            2,
            "--start: write it as",
        ),
        (
            "backtest -c {tmp}/site.yaml {tmp}/site.yaml --camera dock --start 0001-01-01",
            2,
            "--start: name a year from 1970 on",
        ),
    ],
)
def test_error_is_one_line_that_says_what_to_do(
    site: Path, command: Command, words: str, code: int, told: str
) -> None:
    names = {"tmp": site.parent, "canary": CANARY}
    result = command(*words.format(**names).split())
    assert result.returncode == code, result.stderr
    assert told.format(**names) in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert CANARY not in result.stderr


def test_incidents_are_listed_and_shown(tmp_path: Path, command: Command) -> None:
    incident = an_incident()
    with AlertStore(open_database(database_url(tmp_path))).transaction() as transaction:
        transaction.insert_findings([a_finding(score=0.9)])
        transaction.save_revisions([by_rule(incident)])
        transaction.deliveries.add(a_delivery(), b"{}", {incident.id: 1})
    (listed,) = json.loads(command("incidents", "list", "--data", tmp_path, "--json").stdout)
    assert listed["id"] == str(incident.id)
    assert listed["opened_at"] == str(incident.opened_at).replace(" ", "T")
    shown = json.loads(command("incidents", "show", "0000", "--data", tmp_path, "--json").stdout)
    assert [finding["score"] for finding in shown["evidence"]] == [0.9]
    assert [delivery["state"] for delivery in shown["deliveries"]] == ["waiting"]
    assert [(entry["who"], entry["state"]) for entry in shown["trail"]] == [("rule", "open")]
    assert shown["stills"] == []
    for words in (["list"], ["show", "0000"]):
        assert "bag-left" in command("incidents", *words, "--data", tmp_path).stdout
    missing = command("incidents", "show", "ffff", "--data", tmp_path)
    assert (missing.returncode, missing.stdout) == (1, "")


def test_incident_is_shown_with_all_that_a_message_says(site: Path, command: Command) -> None:
    data = read_settings(site).data
    data.mkdir()
    finding = replace(a_finding(question="q" * 64, score=0.93), zone="yard")
    incident = replace(an_incident(), reason="[/] refuses the password", evidence=(finding.id,))
    with AlertStore(open_database(database_url(data))).transaction() as transaction:
        transaction.insert_findings([finding])
        transaction.save_revisions([replace(by_rule(incident), note="[/bold] two bags")])
    site.write_text(site.read_text() + "external_url: https://watch.example\n")
    shown = json.loads(command("incidents", "show", "0000", "-c", site, "--json").stdout)
    names = ("question", "score", "margin", "since", "reason")
    assert [shown[name] for name in names] == [
        "q" * 64,
        0.93,
        finding.margin,
        finding.since.isoformat(),
        "[/] refuses the password",
    ]
    assert (shown["zone"], shown["evidence"][0]["zone"]) == ("yard", "yard")
    assert shown["url"].startswith("https://watch.example/incidents/0000")
    assert shown["summary"] == "bag-left on dock"
    result = command("incidents", "show", "0000", "-c", site)
    assert result.returncode == 0, result.stderr
    for words in (
        "[/] refuses the password",
        "[/bold] two bags",
        "0.93",
        finding.question,
        "(yard)",
    ):
        assert words in result.stdout
    assert ".250000" not in result.stdout
    known = json.loads(command("incidents", "show", "0000", "--data", data, "--json").stdout)
    assert known["score"] == 0.93
    assert "url" not in known


def test_people_act_on_incidents_and_the_trail_tells(tmp_path: Path, command: Command) -> None:
    with AlertStore(open_database(database_url(tmp_path))).transaction() as transaction:
        transaction.save_revisions([by_rule(an_incident())])
    where, by = ("--data", tmp_path), ("--by", "ada")
    acted = command("incidents", "ack", "0000", *where, *by, "-m", "on my way", "--json")
    assert json.loads(acted.stdout)["acknowledged_by"] == "ada"
    again = command("incidents", "ack", "0000", *where, *by)
    assert (again.returncode, "ada has acknowledged it already" in again.stderr) == (1, True)
    assert command("incidents", "note", "0000", "two bags", *where, *by).returncode == 0
    result = command("incidents", "resolve", "0000", *where, *by).stdout
    assert "resolved, revision 4" in result
    store = AlertStore(open_database(database_url(tmp_path)))
    with closing(publish_all(SqliteLog(tmp_path / LOG_FILE), store)) as log:
        told = [
            decode_incident(entry.value).state
            for entry in log.read(log.partition_for(INCIDENTS, "dock"), 0)
        ]
    assert told == ["open", "acknowledged", "acknowledged", "resolved"]
    verified = json.loads(command("audit", "verify", *where, "--json").stdout)
    assert (verified["entries"], verified["problem"]) == (4, None)
    since = ("--since", f"{verified['entries']}:{verified['digest']}")
    assert command("audit", "verify", *where, *since).stdout.startswith("good: 4 entries")
    forged = command("audit", "verify", *where, "--since", f"4:{'0' * 64}")
    assert (forged.returncode, "NOT good" in forged.stdout) == (1, True)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_run_survives_a_camera_that_is_gone_and_a_receiver_that_is_down(
    tmp_path: Path, checkpoint: Path
) -> None:
    port, errors, data = free_port(), tmp_path / "errors", tmp_path / "data"
    site = write_site(tmp_path, checkpoint, camera_server.camera_url(port))
    with filmed_camera(port), run_longwatch("run", "-c", site, errors=errors) as process:
        wait_for(lambda: (data / LOG_FILE).exists() and any(waiting(data)), 200)
        second = longwatch("run", "-c", site)
        assert (second.returncode, second.stderr.count("\n")) == (1, 1)
        assert f"in use by process {process.pid}" in second.stderr
        process.send_signal(signal.SIGTERM)
        assert wait_for(lambda: process.poll() is not None, 20) < 15
    assert process.returncode == 0
    lines_found = [json.loads(line) for line in errors.read_text().splitlines()]
    events = {(line["process"], line["event"]) for line in lines_found}
    assert ("camera-gate", "camera lost") in events
    assert ("alerts", "not delivered") in events
    assert not [line for line in lines_found if line["level"] in ("error", "critical")]
    for secret in (CANARY, SECRET):
        assert secret not in errors.read_text()
        assert not any(
            secret.encode() in path.read_bytes() for path in data.rglob("*") if path.is_file()
        )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_run_goes_on_without_alerts_whose_database_is_unfit(site: Path) -> None:
    data, errors = site.parent / "data", site.parent / "errors"
    data.mkdir()
    with open_database(database_url(data)).begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'newer'")
    with run_longwatch("run", "-c", site, errors=errors) as process:
        wait_for(lambda: read_role_problems(data), 100)
        lost = errors.read_text().count("camera lost")
        wait_for(lambda: errors.read_text().count("camera lost") > lost, 60)
        assert process.poll() is None
    (held,) = read_role_problems(data)
    assert (held.role, "upgrade longwatch" in held.reason) == ("alerts", True)
    assert "role held back, the others go on" in errors.read_text()


@contextmanager
def filmed_camera(port: int) -> Iterator[None]:
    """Serve the demo's camera for as long as the block runs."""
    logs = LoggingConfig(level=logging.ERROR)
    role = CameraServerRole(name="server", port=port, logging=logs)
    supervisor = Supervisor([role])
    supervisor.run_once()
    try:
        yield
    finally:
        supervisor.stop_children()


def waiting(data: Path) -> list[Delivery]:
    """Return the deliveries that were tried and did not go."""
    with closing(SqliteLog(data / LOG_FILE)) as log:
        if log.end_offset(log.partition_for(FINDINGS, "dock")) < 3:
            return []
    store = AlertStore(open_database(database_url(data)))
    return [each for each in store.deliveries() if each.attempts]

"""Routing as people set it and use it: settings, `longwatch silence`, and acts that are told."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alerts.dispatch.grouping import RoutePolicy
from alerts.dispatch.rate_limit import MessageRate
from deploy.cli.app import app
from deploy.config.assemble import build_notification_policy
from deploy.config.data_dir import LOG_FILE, database_url
from deploy.config.settings_file import read_settings
from deploy.errors import BadSettings, CommandFailed, DeployError
from kit.alerts.routing import an_open_incident, dispatch_all, save_and_notify
from kit.storage.fixtures import START
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.log.sqlite.log import SqliteLog
from test_deploy_settings import GOOD, changed, problems

MORE = """\
  - name: camera-down
    health: camera_down
    notify: [soc]
route: {group_by: [camera], group_wait: 10s, rate_limit: 20/m}
inhibit:
  - source: {health: camera_down}
    target: {severity: low}
  - source: {rule: bag-left}
    equal: [camera, severity]
maintenance:
  - {cameras: [do*], active: "Sun 02:00-04:00 Europe/Berlin"}
receivers:
  pager:
    pagerduty: {routing_key: 0123456789abcdef0123456789abcdef}
    route: {group_wait: 0s, rate_limit: none}
"""


@pytest.fixture
def store(tmp_path: Path) -> AlertStore:
    SqliteLog(tmp_path / LOG_FILE).close()
    return AlertStore(open_database(database_url(tmp_path)))


def json_output(data: Path, *words: str) -> Any:
    """Run a command and read the JSON it prints; raise what it raises."""
    arguments = [*words, "--data", str(data), "--json"]
    ran = CliRunner().invoke(app, arguments, catch_exceptions=False)
    return json.loads(ran.stdout)


def test_routes_are_read_with_the_receivers_own(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(changed("receivers:\n", MORE))
    routing = build_notification_policy(read_settings(file))
    usual = RoutePolicy(
        group_by=("camera",),
        group_wait=timedelta(seconds=10),
        rate_limit=MessageRate(count=20, per=timedelta(minutes=1)),
    )
    assert routing.policy_for("soc") == usual
    pager = routing.policy_for("pager")
    assert (pager.group_wait, pager.rate_limit, pager.group_by) == (timedelta(), None, ("camera",))
    down, bag = routing.inhibitions
    assert (down.source, [each.text for each in down.target]) == (
        frozenset({"camera-down"}),
        ["severity=low"],
    )
    assert (bag.source, bag.equal) == (frozenset({"bag-left"}), ("camera", "severity"))
    assert [each.cameras for each in routing.maintenance] == [("do*",)]
    assert routing.health_rules == {"camera-down"}


def test_camera_that_is_down_inhibits_unless_another_is_written(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    down = "  - {name: gone, health: camera_down, notify: [soc]}\nreceivers:\n"
    file.write_text(changed("receivers:\n", down))
    routing = build_notification_policy(read_settings(file))
    assert [each.source for each in routing.inhibitions] == [{"gone"}]
    assert routing.default == RoutePolicy()
    file.write_text(file.read_text() + "inhibit: []\n")
    assert build_notification_policy(read_settings(file)).inhibitions == ()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("route: {group_wait: soon}", "route.group_wait: write a duration as"),
        ("route: {group_by: [colour]}", "route.group_by.0: "),
        ("route: {group_interval: 0s}", "route.group_interval: "),
        ("route: {rate_limit: 60}", "route.rate_limit"),
        ("route: {rate_limit: 0/h}", "route.rate_limit"),
        ("route: {grup_wait: 1s}", "route.grup_wait: unknown key, did you mean group_wait"),
        ("inhibit: [{source: {}}]", "inhibit.0.source: write either `health: STATE` or `rule:"),
        ("inhibit: [{source: {rule: nope}}]", "inhibit.0.source.rule: no rule is called 'nope'"),
        ("inhibit: [{source: {health: ill}}]", "inhibit.0.source.health: "),
        (
            "maintenance: [{cameras: [cellar], active: 02:00-04:00 UTC}]",
            "maintenance.0.cameras.0: no camera is called 'cellar'",
        ),
        ("maintenance: [{active: whenever}]", "maintenance.0.active: write it as Mon-Fri"),
        ("maintenance: [{cameras: [dock]}]", "maintenance.0.active: missing"),
    ],
)
def test_bad_routing_is_refused_with_line_and_key(tmp_path: Path, line: str, told: str) -> None:
    last = GOOD.count("\n") + 1
    assert problems(tmp_path, GOOD + line + "\n")[0].startswith(f"site.yaml:{last}: {told}")


def test_silence_is_added_listed_and_expired(tmp_path: Path, store: AlertStore) -> None:
    added = json_output(
        tmp_path, "silence", "add", "camera=dock", "rule=~bag.*",
        "--for", "2h", "--by", "ann", "-m", "works on the gate",
    )  # fmt: skip
    (listed,) = json_output(tmp_path, "silence", "list")
    assert listed == added | {"state": "active"}
    assert (listed["matchers"], listed["who"]) == (["camera=dock", "rule=~bag.*"], "ann")
    began, end = (datetime.fromisoformat(listed[name]) for name in ("start", "end"))
    assert end - began == timedelta(hours=2)
    shown = CliRunner().invoke(app, ["silence", "list", "--data", str(tmp_path)])
    assert "works on the gate" in shown.stdout
    assert json_output(tmp_path, "silence", "expire", listed["id"][:6]) == {"expired": listed["id"]}
    assert json_output(tmp_path, "silence", "list") == []
    (ended,) = json_output(tmp_path, "silence", "list", "--all")
    assert ended["state"] == "expired"
    with pytest.raises(CommandFailed, match="has ended at"):
        json_output(tmp_path, "silence", "expire", listed["id"])


def test_silence_may_begin_later(tmp_path: Path, store: AlertStore) -> None:
    start = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    words = ("silence", "add", "camera=dock", "--for", "1h", "--start", start, "--by", "ann")
    assert json_output(tmp_path, *words)["start"] == start
    assert json_output(tmp_path, "silence", "list")[0]["state"] == "pending"


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        (["add", "dock", "--for", "1h"], BadSettings, "write it as camera=dock"),
        (["add", "camera=~.*", "--for", "1h"], BadSettings, "it would mute everything"),
        (["add", "camera=~(", "--for", "1h"], BadSettings, "no regular expression of RE2"),
        (["add", "camera=dock", "--for", "soon"], BadSettings, "--for: write a duration"),
        (["add", "camera=dock", "--for", "0s"], BadSettings, "--for: the silence would be empty"),
        (["add", "camera=dock", "--for", "1h", "-m", "a\nb"], BadSettings, "--comment: at most"),
        (
            ["expire", "ffff"],
            CommandFailed,
            "no silence has an id that begins with ffff: see `longwatch silence list`",
        ),
    ],
)
def test_silence_that_cannot_be_is_refused(
    tmp_path: Path, store: AlertStore, words: list[str], error: type[DeployError], told: str
) -> None:
    with pytest.raises(error, match=told.replace("(", r"\(")):
        json_output(tmp_path, "silence", *words)


def test_incident_tells_why_nobody_was_told(tmp_path: Path, store: AlertStore) -> None:
    json_output(tmp_path, "silence", "add", "camera=dock", "--for", "2h", "--by", "ann")
    incident = save_and_notify(store, an_open_incident(1))
    assert dispatch_all(store, datetime.now(UTC)) == 0
    (notification,) = json_output(tmp_path, "incidents", "show", str(incident.id))["notices"]
    assert (notification["kind"], notification["receiver"], notification["state"]) == (
        "opened",
        "soc",
        "muted",
    )
    assert notification["why"].endswith("by ann")
    shown = CliRunner().invoke(
        app, ["incidents", "show", str(incident.id), "--data", str(tmp_path)]
    )
    assert "muted" in shown.stdout


def test_acts_by_hand_are_told_to_those_who_know_and_those_of_the_rule(
    tmp_path: Path, store: AlertStore
) -> None:
    incident = save_and_notify(store, an_open_incident(1), receivers=("guard",))
    dispatch_all(store, START)
    json_output(tmp_path, "incidents", "ack", str(incident.id), "--by", "ann")
    heard = [
        each.receiver for each in store.notifications(incident.id) if each.kind == "acknowledged"
    ]
    assert heard == ["guard"]
    file = tmp_path / "site.yaml"
    file.write_text(GOOD + "data: .\n")
    json_output(tmp_path, "incidents", "note", str(incident.id), "two bags", "--by", "ann")
    resolve = ["incidents", "resolve", str(incident.id), "--by", "ann", "-c", str(file)]
    ran = CliRunner().invoke(app, resolve, catch_exceptions=False)
    assert "is resolved" in ran.stdout
    heard = [each.receiver for each in store.notifications(incident.id) if each.kind == "resolved"]
    assert heard == ["guard", "soc"]
    assert len(store.notifications(incident.id)) == 4

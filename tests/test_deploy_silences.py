"""Routing as people set it and use it: settings, `longwatch silence`, and acts that are told."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from routing_fixtures import an_open, change, route_all
from storage_fixtures import START
from test_deploy_settings import GOOD, changed, problems
from typer.testing import CliRunner

from alerts.routing import Rate, Route
from deploy.assemble import routing_of
from deploy.cli import app
from deploy.config_file import read_settings
from deploy.data import LOG_FILE, database_url
from deploy.errors import BadSettings, DeployError, Failed
from storage.database import open_database
from storage.incidents import IncidentStore
from storage.sqlite_log import SqliteLog

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
def store(tmp_path: Path) -> IncidentStore:
    SqliteLog(tmp_path / LOG_FILE).close()
    return IncidentStore(open_database(database_url(tmp_path)))


def said(data: Path, *words: str) -> Any:
    """Run a command and read the JSON it prints; raise what it raises."""
    arguments = [*words, "--data", str(data), "--json"]
    ran = CliRunner().invoke(app, arguments, catch_exceptions=False)
    return json.loads(ran.stdout)


def test_routes_are_read_with_the_receivers_own(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(changed("receivers:\n", MORE))
    routing = routing_of(read_settings(file))
    usual = Route(
        group_by=("camera",),
        group_wait=timedelta(seconds=10),
        rate_limit=Rate(count=20, per=timedelta(minutes=1)),
    )
    assert routing.route("soc") == usual
    pager = routing.route("pager")
    assert (pager.group_wait, pager.rate_limit, pager.group_by) == (timedelta(), None, ("camera",))
    down, bag = routing.inhibit
    assert (down.source, [each.text for each in down.target]) == (
        frozenset({"camera-down"}),
        ["severity=low"],
    )
    assert (bag.source, bag.equal) == (frozenset({"bag-left"}), ("camera", "severity"))
    assert [each.cameras for each in routing.maintenance] == [("do*",)]
    assert routing.health == {"camera-down"}


def test_camera_that_is_down_inhibits_unless_another_is_written(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    down = "  - {name: gone, health: camera_down, notify: [soc]}\nreceivers:\n"
    file.write_text(changed("receivers:\n", down))
    routing = routing_of(read_settings(file))
    assert [each.source for each in routing.inhibit] == [{"gone"}]
    assert routing.default == Route()
    file.write_text(file.read_text() + "inhibit: []\n")
    assert routing_of(read_settings(file)).inhibit == ()


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


def test_silence_is_added_listed_and_expired(tmp_path: Path, store: IncidentStore) -> None:
    added = said(
        tmp_path, "silence", "add", "camera=dock", "rule=~bag.*",
        "--for", "2h", "--by", "ann", "-m", "works on the gate",
    )  # fmt: skip
    (listed,) = said(tmp_path, "silence", "list")
    assert listed == added | {"state": "active"}
    assert (listed["matchers"], listed["who"]) == (["camera=dock", "rule=~bag.*"], "ann")
    began, end = (datetime.fromisoformat(listed[name]) for name in ("start", "end"))
    assert end - began == timedelta(hours=2)
    shown = CliRunner().invoke(app, ["silence", "list", "--data", str(tmp_path)])
    assert "works on the gate" in shown.stdout
    assert said(tmp_path, "silence", "expire", listed["id"][:6]) == {"expired": listed["id"]}
    assert said(tmp_path, "silence", "list") == []
    (ended,) = said(tmp_path, "silence", "list", "--all")
    assert ended["state"] == "expired"
    with pytest.raises(Failed, match="has ended at"):
        said(tmp_path, "silence", "expire", listed["id"])


def test_silence_may_begin_later(tmp_path: Path, store: IncidentStore) -> None:
    start = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    words = ("silence", "add", "camera=dock", "--for", "1h", "--start", start, "--by", "ann")
    assert said(tmp_path, *words)["start"] == start
    assert said(tmp_path, "silence", "list")[0]["state"] == "pending"


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        (["add", "dock", "--for", "1h"], BadSettings, "write it as camera=dock"),
        (["add", "camera=~.*", "--for", "1h"], BadSettings, "it would mute everything"),
        (["add", "camera=~(", "--for", "1h"], BadSettings, "no regular expression of RE2"),
        (["add", "camera=dock", "--for", "soon"], BadSettings, "--for: write a duration"),
        (["add", "camera=dock", "--for", "0s"], BadSettings, "--for: it would end as it begins"),
        (["add", "camera=dock", "--for", "1h", "-m", "a\nb"], BadSettings, "--comment: at most"),
        (["expire", "ffff"], Failed, "no silence begins with ffff: see `longwatch silence list`"),
    ],
)
def test_silence_that_cannot_be_is_refused(
    tmp_path: Path, store: IncidentStore, words: list[str], error: type[DeployError], told: str
) -> None:
    with pytest.raises(error, match=told.replace("(", r"\(")):
        said(tmp_path, "silence", *words)


def test_incident_tells_why_nobody_was_told(tmp_path: Path, store: IncidentStore) -> None:
    said(tmp_path, "silence", "add", "camera=dock", "--for", "2h", "--by", "ann")
    incident = change(store, an_open(1))
    assert route_all(store, datetime.now(UTC)) == 0
    (notice,) = said(tmp_path, "incidents", "show", str(incident.id))["notices"]
    assert (notice["kind"], notice["receiver"], notice["state"]) == ("opened", "soc", "muted")
    assert notice["why"].endswith("by ann")
    shown = CliRunner().invoke(
        app, ["incidents", "show", str(incident.id), "--data", str(tmp_path)]
    )
    assert "muted" in shown.stdout


def test_acts_by_hand_are_told_to_those_who_know_and_those_of_the_rule(
    tmp_path: Path, store: IncidentStore
) -> None:
    incident = change(store, an_open(1), receivers=("guard",))
    route_all(store, START)
    said(tmp_path, "incidents", "ack", str(incident.id), "--by", "ann")
    heard = [each.receiver for each in store.notices(incident.id) if each.kind == "acknowledged"]
    assert heard == ["guard"]
    file = tmp_path / "site.yaml"
    file.write_text(GOOD + "data: .\n")
    said(tmp_path, "incidents", "note", str(incident.id), "two bags", "--by", "ann")
    resolve = ["incidents", "resolve", str(incident.id), "--by", "ann", "-c", str(file)]
    ran = CliRunner().invoke(app, resolve, catch_exceptions=False)
    assert "is resolved" in ran.stdout
    heard = [each.receiver for each in store.notices(incident.id) if each.kind == "resolved"]
    assert heard == ["guard", "soc"]
    assert len(store.notices(incident.id)) == 4

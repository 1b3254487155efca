"""The commands of an operator: where they look, which secrets they need, what they print."""

import json
import os
import re
import sys
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest
from rich.console import Console

from deploy.config import find
from deploy.config.data_dir import DATABASE_FILE, LOG_FILE
from deploy.config.settings import PREFIX
from kit.deploy.command import Command
from kit.storage.fixtures import a_delivery, an_incident, by_rule
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.log.sqlite.log import SqliteLog
from storage.records.deliveries import DeliveryState
from storage.records.topics import INCIDENTS

SITE = """\
cameras:
  dock: {url: "rtsp://${UNSET_USER}:${UNSET_PASSWORD}@10.0.0.21/sub"}
  yard: {url: "rtsp://${UNSET_USER}:${UNSET_PASSWORD}@10.0.0.22/sub"}
questions:
  bag: {ask: "Is there a bag?"}
rules:
  - {name: bag-left, when: bag, above: 0.8, notify: [pager]}
receivers:
  pager: {pagerduty: {routing_key: "${UNSET_KEY}"}}
data: .
"""
INCIDENT = replace(an_incident(), camera="dock", rule="bag-left")


@pytest.fixture(autouse=True)
def _only_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture(name="site")
def make_site(tmp_path: Path) -> Path:
    """Write settings whose secrets are not set, beside the data of a longwatch that ran."""
    file = tmp_path / "longwatch.yaml"
    file.write_text(SITE)
    SqliteLog(tmp_path / LOG_FILE).close()
    with store_of(tmp_path).transaction() as transaction:
        transaction.save_revisions([by_rule(INCIDENT)])
        transaction.deliveries.add(a_delivery(1, "pager"), b"{}", {INCIDENT.id: 1})
    return file


def store_of(folder: Path) -> AlertStore:
    return AlertStore(open_database(f"sqlite:///{folder / DATABASE_FILE}"))


@pytest.mark.parametrize(
    "words",
    [
        "incidents list",
        "incidents show 0000",
        "incidents ack 0000 --by ann",
        "incidents resolve 0000 --by ann",
        "incidents note 0000 hello --by ann",
        "audit list",
        "audit verify",
        "silence add camera=dock --for 1h --by ann",
        "silence list",
        "deliveries list",
        "deliveries replay --receiver pager",
        "receivers list",
        "dead list",
        "db check",
        "rules fired",
        "tail incidents --from-start --limit 1",
    ],
)
def test_who_looks_or_acts_needs_no_secret(site: Path, command: Command, words: str) -> None:
    if words.startswith("tail"):
        with closing(SqliteLog(site.parent / LOG_FILE)) as log:
            log.append(INCIDENTS, "dock", b"{}")
    result = command(*words.split(), "-c", site, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout


def test_rules_are_tested_without_secrets(site: Path, command: Command) -> None:
    tests = site.parent / "tests.yaml"
    tests.write_text(
        "rules: longwatch.yaml\n"
        "tests:\n"
        "  - name: a\n"
        "    camera: dock\n"
        "    interval: 16s\n"
        "    samples: {bag: '0.9'}\n"
        "    expect: [{at: 0s, rule: bag-left, state: open}]\n"
    )
    assert command("rules", "test", tests).returncode == 0


def test_who_acts_notifies_the_receivers_of_the_rule(site: Path, command: Command) -> None:
    command("incidents", "resolve", "0000", "--by", "ann", "-c", site)
    (notification,) = store_of(site.parent).notifications(INCIDENT.id)
    assert (notification.receiver, notification.kind) == ("pager", "resolved")


def test_what_runs_needs_its_secrets(site: Path, command: Command) -> None:
    result = command("validate", "-c", site)
    assert result.returncode == 2
    assert result.stderr.count("the environment has no variable UNSET_") == 5


@pytest.mark.parametrize("where", ["variable", "here", "etc"])
def test_settings_are_found_where_they_usually_are(
    site: Path, command: Command, monkeypatch: pytest.MonkeyPatch, where: str, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(site.parent if where == "here" else elsewhere)
    if where == "variable":
        monkeypatch.setenv("LONGWATCH_CONFIG", str(site))
    if where == "etc":
        monkeypatch.setattr(find, "CONFIG_FILES", (Path("longwatch.yaml"), site))
    (listed,) = json.loads(command("incidents", "list", "--json").stdout)
    assert listed["id"] == str(INCIDENT.id)
    assert command("incidents", "ack", "0000", "--by", "ann").returncode == 0
    assert command("receivers", "list").returncode == 0
    result = command("validate").stderr.splitlines()
    assert all(re.match(r".*longwatch\.yaml:\d+: ", line) for line in result)
    assert command("incidents", "list", "--data", elsewhere).returncode == 1  # wins over all


def test_nowhere_to_look_is_said_in_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(find, "CONFIG_FILES", (Path("longwatch.yaml"), tmp_path / "x.yaml"))
    for words, option in (("validate", "FILE"), ("incidents list", "FILE or --data DIR")):
        result = command(*words.split())
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert result.stderr.endswith(f"name one with --config {option}\n")
        assert f"neither ./longwatch.yaml nor {tmp_path}/x.yaml" in result.stderr


@pytest.mark.parametrize(
    ("matcher", "told"),
    [
        ("camera=dok", "camera=dok: no camera is called 'dok' (known: "),
        (
            "camera=cellar",
            "no camera is called 'cellar' (known: dock, receiver/pager, yard): --force",
        ),
        ("rule=bag", "rule=bag: no rule is called 'bag' (known: "),
        ("severity=hihg", "severity=hihg: no severity is called 'hihg' (known: "),
    ],
)
def test_silence_of_what_does_not_exist_is_refused(
    site: Path, command: Command, matcher: str, told: str
) -> None:
    words = ("silence", "add", matcher, "--for", "1h", "--by", "ann", "-c", site)
    result = command(*words)
    assert (result.returncode, result.stdout) == (2, "")
    assert told in result.stderr
    assert json.loads(command("silence", "list", "-c", site, "--json").stdout) == []
    forced = command(*words, "--force")
    assert (forced.returncode, "matches no" in forced.stderr) == (0, True)


@pytest.mark.parametrize(
    ("matcher", "warns"),
    [("camera=do*", False), ("camera=~do.*", False), ("camera=x*", True), ("rule!=x", False)],
)
def test_silence_by_a_pattern_passes(
    site: Path, command: Command, matcher: str, warns: bool
) -> None:
    words = ["camera=dock", matcher] if "!" in matcher else [matcher]
    result = command("silence", "add", *words, "--for", "1h", "--by", "ann", "-c", site)
    assert (result.returncode, "warning: " in result.stderr) == (0, warns)


def test_silence_by_data_alone_knows_what_was_seen(site: Path, command: Command) -> None:
    words = ("--for", "1h", "--by", "ann", "--data", site.parent)
    assert command("silence", "add", "camera=dok", *words).returncode == 2
    assert command("silence", "add", "camera=dock", *words).returncode == 0


@pytest.fixture(name="narrow")
def make_terminal_narrow(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    """Let the output be a terminal of 80 columns; `command` has taken stdout by now."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)
    assert Console().width == 80


@pytest.mark.usefixtures("narrow")
def test_tables_show_whole_seconds_and_cut_nothing(site: Path, command: Command) -> None:
    reason = "the longest comment that anybody ever wrote about a gate that is being mended"
    command("silence", "add", "camera=dock", "rule=bag-left", "--for", "2h", "--by", "ann",
            "-m", reason, "-c", site)  # fmt: skip
    (row,) = json.loads(command("silence", "list", "-c", site, "--json").stdout)
    for words in ("silence list", "deliveries list", "incidents list", "receivers list"):
        shown = command(*words.split(), "-c", site).stdout
        assert max(map(len, shown.splitlines())) <= 80
        assert "…" not in shown
        assert not re.search(r"\d\.\d{3}|T\d\d:", shown)
    shown = column(command("silence", "list", "-c", site).stdout, "end")
    assert shown == f"{datetime.fromisoformat(row['end']):%Y-%m-%d %H:%M:%SZ}".replace(" ", "")


def column(table: str, title: str) -> str:
    """Return the cells of a table's column, joined without blanks."""
    lines = [re.split("[│┃]", line) for line in table.splitlines() if line[:1] in "│┃"]
    at = [cell.strip() for cell in lines[0]].index(title)
    return "".join(cells[at].strip() for cells in lines[1:]).replace(" ", "")


def test_deliveries_name_their_incidents(site: Path, command: Command) -> None:
    with store_of(site.parent).transaction() as transaction:
        many = [replace(INCIDENT, id=UUID(int=n + 50), rule=f"rule-{n}") for n in range(7)]
        transaction.save_revisions([by_rule(each) for each in many])
        second = replace(a_delivery(2, "pager"), id=UUID(int=99), group_id=UUID(int=98))
        transaction.deliveries.add(second, b"{}", {each.id: 1 for each in many})
    rows = json.loads(command("deliveries", "list", "-c", site, "--json").stdout)
    incidents = {len(row["incidents"]): row["incidents"] for row in rows}
    assert incidents[1] == [str(INCIDENT.id)]
    assert incidents[7] == [str(each.id) for each in many]
    shown = command("deliveries", "list", "-c", site).stdout
    assert str(INCIDENT.id)[:8] in shown
    assert "and 2 more" in " ".join(shown.split())


def test_delivery_is_the_same_json_in_both_commands(site: Path, command: Command) -> None:
    tried = replace(a_delivery(1, "pager"), attempts=1, tried_at=INCIDENT.opened_at, reason="410")
    store_of(site.parent).record_outcome(tried)
    (row,) = json.loads(command("deliveries", "list", "-c", site, "--json").stdout)
    incident = str(INCIDENT.id)
    shown = json.loads(command("incidents", "show", incident, "-c", site, "--json").stdout)
    assert shown["deliveries"] == [row]
    assert (row["reason"], row["incidents"]) == ("410", [incident])
    assert datetime.fromisoformat(row["tried_at"]) == INCIDENT.opened_at


@pytest.mark.parametrize("state", ["delivered", "superseded", "exhausted"])
def test_delivered_is_sent_again_only_where_that_is_said(
    site: Path, command: Command, state: str
) -> None:
    store = store_of(site.parent)
    delivery = a_delivery(1, "pager")
    store.record_outcome(replace(delivery, state=DeliveryState(state), attempts=1))
    if state == "superseded":
        from sqlalchemy import update

        from storage.db import tables

        with store.transaction() as transaction:
            transaction.connection.execute(update(tables.deliveries).values(state=state))
    result = command("deliveries", "replay", str(delivery.id), "-c", site)
    if state == "exhausted":
        assert result.returncode == 0
        return
    assert result.returncode == 1
    assert result.stderr == f"{delivery.id} is {state}: --again sends it once more\n"
    assert command("deliveries", "replay", str(delivery.id), "-c", site, "--again").returncode == 0
    assert store.deliveries()[0].state is DeliveryState.WAITING


def test_format_of_rule_tests_is_in_the_help(command: Command) -> None:
    result = command("rules", "test", "--help").stdout
    for word in ("interval: 16s", "samples:", "expect:", "health/camera_down", "0.1+0.2x3"):
        assert word in result


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("rules fired --since 0001-01-01T00:00:00+14:00", "--since: write it as"),
        ("rules fired --since 0001-01-01T00:00:00+00:00", "--since: name a year"),
        ("coverage dock --to 0001-01-01", "--to: name a year"),
        ("silence add camera=dock --for 2h --start 9999-12-31T23:00:00Z", "--start: name a year"),
    ],
)
def test_instant_at_the_end_of_the_calendar_is_refused(
    site: Path, command: Command, words: str, told: str
) -> None:
    result = command(*words.split(), "-c", site)
    assert (result.returncode, result.stderr.startswith(told)) == (2, True), result.stderr


@pytest.mark.slow
def test_validate_refuses_what_run_refuses(
    site: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UNSET_USER", "UNSET_PASSWORD", "UNSET_KEY"):
        monkeypatch.setenv(name, "a1B2" * 8)
    assert command("validate", "-c", site).returncode == 0
    site.write_text(SITE.replace("data: .", "data: /proc/nope"))
    result = command("validate", "-c", site)
    assert (result.returncode, "data: /proc cannot be written" in result.stderr) == (2, True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    site.write_text(SITE + "model: {device: cuda}\n")
    result = command("validate", "-c", site)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert f"{site}:11: model.device: there is no cuda here: " in result.stderr


def test_validate_warns_of_a_weak_password(
    site: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UNSET_USER", "UNSET_PASSWORD"):
        monkeypatch.setenv(name, "camera")
    monkeypatch.setenv("UNSET_KEY", "a1B2" * 8)
    result = command("validate", "-c", site)
    assert result.returncode == 0
    assert result.stderr.startswith(f"warning: {site}:2: cameras.dock.url: the password is short")
    output = json.loads(command("validate", "-c", site, "--json").stdout)
    assert (output["valid"], len(output["warnings"])) == (True, 2)

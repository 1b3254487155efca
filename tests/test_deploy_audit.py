"""`longwatch audit`: who did what by the command line, and what verifying prints."""

import getpass
import json
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete

from deploy.config.data_dir import LOG_FILE, database_url
from kit.deploy.command import Command
from kit.storage.fixtures import START, a_delivery, an_incident, by_rule
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.audit import trail
from storage.db.database import open_database
from storage.db.outbox import save_receiver_status
from storage.log.sqlite.log import SqliteLog
from storage.records.deliveries import DeliveryState, ReceiverState, ReceiverStatus

INCIDENT = an_incident()


@pytest.fixture
def store(tmp_path: Path) -> AlertStore:
    SqliteLog(tmp_path / LOG_FILE).close()
    store = AlertStore(open_database(database_url(tmp_path)))
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(INCIDENT)])
        transaction.deliveries.add(a_delivery(), b"{}", {INCIDENT.id: 1})
        transaction.deliveries.record_outcome(replace(a_delivery(), state=DeliveryState.REFUSED))
        state = ReceiverState.DISABLED
        save_receiver_status(
            transaction, ReceiverStatus(name="soc", state=state, reason="410", since=START)
        )
    return store


def forget(store: AlertStore) -> None:
    with store.transaction() as transaction:
        trail.remove_incidents(transaction.connection, [str(INCIDENT.id)])
        for table in (tables.delivery_incidents, tables.notices, tables.incidents):
            transaction.connection.execute(delete(table))


def test_every_act_is_listed_with_who_how_and_what(
    tmp_path: Path, store: AlertStore, command: Command
) -> None:
    where = ("--data", tmp_path)
    by = ("--by", "ann")
    added = command("silence", "add", "camera=dock", "--for", "2h", *by, "-m", "works", *where)
    silence = added.stdout[:8]
    did = [
        command("silence", "expire", silence, *by, "-m", "over", *where),
        command("receivers", "enable", "soc", "-m", "it is back", *where),
        command("deliveries", "replay", "--receiver", "soc", *by, *where),
        command("incidents", "note", str(INCIDENT.id), "two bags", *by, *where),
        command("incidents", "ack", str(INCIDENT.id), *by, *where),
        command("incidents", "resolve", str(INCIDENT.id), *by, "-m", "lost", *where),
    ]
    assert [each.stderr for each in (added, *did)] == [""] * 7
    rows = json.loads(command("audit", "list", *where, "--json").stdout)
    assert [row["number"] for row in rows] == [7, 6, 5, 4, 3, 2, 1]
    assert {row["how"] for row in rows} == {"cli"}
    told = [(row["who"], row["act"], row["object"][-8:], row["note"]) for row in rows]
    me = getpass.getuser()
    assert told == [
        ("ann", "incident resolve", "00000007", "lost"),
        ("ann", "incident acknowledge", "00000007", ""),
        ("ann", "incident note", "00000007", "two bags"),
        ("ann", "receiver replay", "soc", ""),
        (me, "receiver enable", "soc", "it is back"),
        ("ann", "silence expire", rows[5]["object"][-8:], "over"),
        ("ann", "silence add", rows[6]["object"][-8:], "works"),
    ]
    assert rows[6]["object"].startswith(silence)
    assert [row["details"] for row in rows[:3]] == ["revision 4", "revision 3", "revision 2"]
    two = json.loads(command("audit", "list", *where, "--limit", "2", "--json").stdout)
    assert [row["number"] for row in two] == [7, 6]
    assert "two bags" in command("audit", "list", *where).stdout


def test_what_verify_printed_is_what_since_takes(
    tmp_path: Path, store: AlertStore, command: Command
) -> None:
    where = ("--data", tmp_path)
    command("incidents", "note", str(INCIDENT.id), "two bags", "--by", "ann", *where)
    first = command("audit", "verify", *where).stdout
    assert first.startswith("good: 2 entries, 1 actions; keep this elsewhere: 2:")
    anchors = first.split()[-1]
    command("incidents", "resolve", str(INCIDENT.id), "--by", "ann", *where)
    again = json.loads(command("audit", "verify", *where, "--since", anchors, "--json").stdout)
    assert (again["entries"], again["acts"], again["problem"]) == (3, 2, None)
    assert again["since"] == f"3:{again['digest']},2:{again['acts_digest']}"
    trail, acts_ = anchors.split(",")
    assert command("audit", "verify", *where, "--since", trail).returncode == 0
    forged = command("audit", "verify", *where, "--since", f"{trail},1:{'0' * 64}")
    assert forged.returncode == 1
    assert forged.stdout.startswith("NOT good: acts: entry 1 is not the one that was verified")
    forget(store)
    result = command("audit", "verify", *where, "--since", anchors)
    assert result.returncode == 0
    expected = (
        "good: 3 entries (3 removed by retention), 3 actions; not compared: entry 2 was removed"
    )
    assert result.stdout.startswith(expected)
    assert acts_.startswith("1:")
    listed = [
        json.loads(command("audit", "list", *where, "--json", *more).stdout)
        for more in ((), ("--all",))
    ]
    assert [[row["number"] for row in rows] for rows in listed] == [[2, 1], [3, 2, 1]]
    assert listed[1][0]["act"] == "trail forget"


@pytest.mark.parametrize("since", ["1", "1:2", f"x:{'0' * 64}", ",".join([f"1:{'0' * 64}"] * 3)])
def test_since_that_is_no_anchor_is_refused(
    tmp_path: Path, store: AlertStore, command: Command, since: str
) -> None:
    result = command("audit", "verify", "--data", tmp_path, "--since", since)
    assert (result.returncode, result.stderr.startswith("--since: write NUMBER:")) == (2, True)
    assert store.verify_audit().problem is None

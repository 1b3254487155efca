"""Every command of the command line, on a file and on a server, says and does the same."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typer

from deploy.cli.app import app
from deploy.config.data_dir import DATABASE_FILE, LOG_FILE
from kit.deploy.command import Command
from kit.postgres.server import Postgres
from kit.storage.fixtures import START, WINDOW_LENGTH, a_delivery, a_finding, an_incident, by_rule
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.audit.actions import ActionOrigin
from storage.db.copying import copy_database
from storage.db.database import open_database
from storage.db.silences import SilenceRow, SilenceStore
from storage.errors import Unreadable
from storage.log.dead_letters import build_dead_letter
from storage.log.log import LogEntry
from storage.log.sqlite.log import SqliteLog
from storage.records import wire
from storage.records.claims import Claim
from storage.records.deliveries import DeliveryState, ReceiverState
from storage.records.records import CoverageState
from storage.records.topics import DEAD_LETTERS, FINDINGS, INCIDENTS

SITE = """\
cameras:
  dock: {url: "rtsp://10.0.0.21/sub"}
questions:
  bag: {ask: "Is there a bag?"}
rules:
  - {name: bag-left, when: bag, above: 0.8, notify: [soc]}
receivers:
  soc: {pagerduty: {routing_key: "${UNSET_KEY}"}}
data: .
"""
WITHOUT_DATA = {
    "run", "ingest", "analyze", "alert", "demo", "backtest",  # open them as daemons do
    "validate", "doctor", "probe", "model inspect", "model fetch",
    "rules test", "receivers test", "leave",
}  # fmt: skip
"""The commands that do not come to the data of a longwatch as one who looks or acts does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A command, what its output shows, and how it ends."""

    words: str
    shows: str
    code: int = 0

    @property
    def name(self) -> str:
        """Return the command without its arguments."""
        return next(name for name in sorted(leaves(), key=len)[::-1] if self._is(name))

    def _is(self, name: str) -> bool:
        return self.words == name or self.words.startswith(f"{name} ")


SPAN = "--from 2026-11-22T07:00:00Z --to 2026-11-22T09:00:00Z"
READING = (
    Case(words="incidents list --json", shows='"rule": "bag-left"'),
    Case(words="incidents list", shows="bag-left"),
    Case(words="incidents show 0000 --json", shows='"score": 0.9'),
    Case(words="incidents show 0000", shows="exhausted"),
    Case(words="incidents show ffff", shows="no incident has an id that begins with ffff", code=1),
    Case(words="audit list --json", shows='"who": "ann"'),
    Case(words="audit verify --json", shows='"problem": null'),
    Case(words="deliveries list --json", shows='"receiver": "soc"'),
    Case(words="receivers list --json", shows='"state": "disabled"'),
    Case(words="silence list --all --json", shows='"who": "ann"'),
    Case(words=f"coverage dock {SPAN} --json", shows='"state": "camera_down"'),
    Case(words="coverage cellar", shows="known: dock", code=1),
    Case(words="rules fired --json", shows='"told": "would, too"'),
    Case(words="dead list --json", shows='"reason": "cut off"'),
    Case(words="tail findings --from-start --limit 1 --json", shows='"question": "bag"'),
    Case(words="db check --json", shows='"up_to_date": true'),
)
ACTING = (
    Case(words="incidents ack 0000 --by ann --json", shows='"acknowledged_by": "ann"'),
    Case(words="incidents note 0000 hello --by ann --json", shows='"revision": 2'),
    Case(words="incidents resolve 0000 --by ann --json", shows='"state": "resolved"'),
    Case(words="silence add camera=dock --for 1h --by ann --json", shows='"who": "ann"'),
    Case(words="silence expire 0000 --json", shows='"expired"'),
    Case(words="deliveries replay --receiver soc --json", shows='"replayed": 1'),
    Case(words="receivers enable soc --json", shows='"enabled": "soc"'),
    Case(words="dead replay --json", shows='"left": 1'),
    Case(words="ask dock Anybody? --timeout 1s", shows="no analyzer answered", code=1),
    Case(words="db upgrade", shows="up to date"),
)


def leaves() -> set[str]:
    """Return the name of every command."""

    def of(command: Any, name: str) -> Iterator[str]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name
            return
        for each in inner:
            yield from of(inner[each], f"{name} {each}".strip())

    return set(of(typer.main.get_command(app), ""))


def test_every_command_is_tried_or_needs_no_data() -> None:
    tried = {case.name for case in (*READING, *ACTING)}
    tried |= {"db copy", "db status"}  # test_storage_postgres, test_db_status
    assert tried.isdisjoint(WITHOUT_DATA)
    assert leaves() == tried | WITHOUT_DATA


def write_data(folder: Path) -> None:
    """Write something of everything that commands look at."""
    folder.joinpath("longwatch.yaml").write_text(SITE)
    incident = replace(
        an_incident(), evidence=(a_finding().id,), last_seen_at=START + WINDOW_LENGTH
    )
    engine = open_database(f"sqlite:///{folder / DATABASE_FILE}")
    store = AlertStore(engine)
    lost = a_delivery(1, "soc")
    with store.transaction() as transaction:
        transaction.insert_findings([a_finding(), a_finding(1, score=0.2)])
        transaction.save_revisions([by_rule(incident)])
        transaction.deliveries.add(lost, b"{}", {incident.id: 1})
        claims = [a_claim(CoverageState.ANALYSED, 0), a_claim(CoverageState.CAMERA_DOWN, 1)]
        transaction.coverage.fold(claims)
        row = {"name": "soc", "state": ReceiverState.DISABLED, "reason": "410", "since": START}
        transaction.connection.execute(tables.receivers.insert().values(row))
    store.record_outcome(replace(lost, state=DeliveryState.EXHAUSTED, attempts=3, tried_at=START))
    SilenceStore(store).add(a_silence(), ActionOrigin.CLI)
    engine.dispose()
    write_log(folder / LOG_FILE)


def write_log(file: Path) -> None:
    log = SqliteLog(file)
    log.append(FINDINGS, "dock", wire.encode_finding(a_finding()))
    log.append(INCIDENTS, "dock", wire.encode_incident(an_incident()))
    log.append(
        DEAD_LETTERS,
        "dock",
        wire.encode_dead_letter(build_dead_letter(an_entry(), Unreadable("cut off"))),
    )
    log.close()


def an_entry() -> LogEntry:
    return LogEntry(topic=FINDINGS, offset=7, key="dock", timestamp_us=0, value=b"{")


def a_claim(state: CoverageState, number: int) -> Claim:
    start = START + number * WINDOW_LENGTH
    return Claim(camera="dock", state=state, start=start, end=start + WINDOW_LENGTH)


def a_silence() -> SilenceRow:
    start, end = START, START + timedelta(days=20_000)
    return SilenceRow(
        id=UUID(int=1), matchers=("camera=dock",), start=start, end=end, who="ann", comment=""
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The data of a longwatch, with its database in a file or on a server."""

    folder: Path

    def run(self, command: Command, case: Case) -> str:
        """Run a command; return its output with what differs each time left out."""
        words = case.words.split()
        result = command(*words, "-c", self.folder / "longwatch.yaml")
        assert "Traceback" not in result.stderr
        assert result.returncode == case.code, result.stderr
        text = f"{result.stdout}{result.stderr}".replace(str(self.folder), "FOLDER")
        for pattern, name in CHANGES.items():
            text = re.sub(pattern, name, text)
        return text


CHANGES = {
    r"^(FOLDER/longwatch\.db|postgresql://\S+):": "DATABASE:",
    r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}": "ID",
    r"[0-9a-f]{64}": "DIGEST",
    r"20\d\d-(?!11-22)\d\d-\d\d[T ][0-9:.]+": "NOW",
}
"""What differs from run to run."""


@pytest.fixture(scope="session", name="templates")
def make_templates(
    tmp_path_factory: pytest.TempPathFactory, postgres: Postgres
) -> Iterator[tuple[Path, str]]:
    """Write the same data into a folder, and into a database on a server."""
    folder, url = tmp_path_factory.mktemp("both"), postgres.create_database()
    write_data(folder)
    copy_database(f"sqlite:///{folder / DATABASE_FILE}", url, lambda done, total: None)
    yield folder, url
    postgres.drop(url)


@pytest.fixture(name="sites")
def make_sites(
    templates: tuple[Path, str], tmp_path: Path, postgres: Postgres
) -> Iterator[list[Site]]:
    folder, template = templates
    file, server = tmp_path / "file", tmp_path / "server"
    for each in (file, server):
        shutil.copytree(folder, each)
    url = postgres.create_database(template.rpartition("/")[2])
    server.joinpath("longwatch.yaml").write_text(f"{SITE}database: {url}\n")
    server.joinpath(DATABASE_FILE).unlink()
    yield [Site(folder=file), Site(folder=server)]
    postgres.drop(url)


@pytest.mark.parametrize("case", [*READING, *ACTING], ids=lambda case: case.words)
def test_command_says_the_same_on_a_file_and_on_a_server(
    sites: list[Site], command: Command, case: Case
) -> None:
    on_file, on_server = (site.run(command, case) for site in sites)
    assert on_file == on_server
    assert case.shows in on_file


def test_commands_do_the_same_on_a_file_and_on_a_server(
    sites: list[Site], command: Command
) -> None:
    for site in sites:
        for case in ACTING:
            site.run(command, case)
    for look in READING:
        on_file, on_server = (site.run(command, look) for site in sites)
        assert on_file == on_server

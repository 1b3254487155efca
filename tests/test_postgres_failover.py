"""A primary and its standby: which host is used, what a standby is good for, and failovers."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.checks.connections import check_connections
from deploy.config.data_dir import LOG_FILE
from deploy.config.settings_file import read_settings
from kit.chaos.postgres_failover import FailoverKind, fail_over
from kit.deploy.command import Command, run_longwatch
from kit.postgres.replication import ReplicatedPair, query_scalar, run_replicated_pair
from kit.storage.fixtures import a_finding, an_incident, by_rule
from kit.waiting import wait_for
from storage.connection_check import ConnectionCheck
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.errors import StorageFailing
from test_commands_on_both_databases import READING, SITE, write_log

pytestmark = pytest.mark.slow
NOBODY = "127.0.0.1:1"


@pytest.fixture(scope="module", name="pair")
def following_pair() -> Iterator[ReplicatedPair]:
    """A pair whose standby stays one."""
    with run_replicated_pair() as pair:
        yield pair


@pytest.fixture
def pair_of_my_own() -> Iterator[ReplicatedPair]:
    with run_replicated_pair(synchronous=True) as pair:
        yield pair


def at(*hosts: str, url: str) -> str:
    return re.sub(r"@[^/]+/", f"@{','.join(hosts)}/", url)


def host(port: int) -> str:
    return f"127.0.0.1:{port}"


def a_site(folder: Path, url: str) -> Path:
    file = folder / "longwatch.yaml"
    file.write_text(f"{SITE}database: {url}\n")
    return file


def database_checks(file: Path) -> list[ConnectionCheck]:
    return [each for each in check_connections(read_settings(file)) if "database" in each.name]


def test_standby_is_read_by_every_command_that_looks(
    pair: ReplicatedPair, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNSET_KEY", "a1B2" * 8)
    write_log(tmp_path / LOG_FILE)
    url, standby = pair.create_database(), host(pair.standby.port)
    engine = open_database(url)
    with AlertStore(engine).transaction() as transaction:
        transaction.save_revisions([by_rule(an_incident())])
    engine.dispose()
    pair.wait_until_replayed()
    for hosts in ([standby], [NOBODY, standby]):
        site = a_site(tmp_path, at(*hosts, url=url))
        for case in READING:
            result = command(*case.words.split(), "-c", site)
            assert "takes no writes" not in result.stderr, case.words
        assert "bag-left" in command("incidents", "list", "-c", site).stdout
        result = command("incidents", "ack", "0000", "--by", "ann", "-c", site)
        assert (result.returncode, result.stderr.count("\n")) == (1, 1)
        assert (
            "takes no writes, as a standby does: promote it, or name the primary" in result.stderr
        )
        assert standby in result.stderr


def test_checkup_names_each_host_and_what_it_is(
    pair: ReplicatedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNSET_KEY", "a1B2" * 8)
    url = pair.create_database()
    primary, standby = host(pair.primary.port), host(pair.standby.port)
    _, *both = database_checks(a_site(tmp_path, url))
    assert [(each.name, each.found, each.is_good) for each in both] == [
        (f"database host {primary}", "primary, timeline 1", True),
        (f"database host {standby}", "standby", True),
    ]
    _, dead, alone = database_checks(a_site(tmp_path, at(NOBODY, standby, url=url)))
    assert (dead.is_good, "refused" in dead.found) == (False, True)
    assert alone.found == "standby: it accepts no writes: promote it, or name the primary"
    assert not alone.is_good


def test_alert_waits_for_a_standby_to_be_promoted(
    pair_of_my_own: ReplicatedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNSET_KEY", "a1B2" * 8)
    pair, errors = pair_of_my_own, tmp_path / "errors"
    url = at(host(pair.standby.port), url=pair.create_database())
    with run_longwatch("alert", "-c", a_site(tmp_path, url), errors=errors) as process:
        wait_for(lambda: "takes no writes" in errors.read_text())
        pair.primary.stop("fast")
        pair.standby.promote()
        engine = open_database(url)
        asks = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'longwatch'"
        engine.dispose()
        wait_for(lambda: int(str(query_scalar(pair.standby, asks))) > 0)
        assert process.poll() is None
    lines_found = [line for line in errors.read_text().splitlines() if "takes no writes" in line]
    assert len(lines_found) == 1
    assert host(pair.standby.port) in lines_found[0]
    assert "canary" not in errors.read_text()


def test_old_primary_that_comes_back_is_not_written_to(
    pair_of_my_own: ReplicatedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNSET_KEY", "a1B2" * 8)
    pair, url = pair_of_my_own, pair_of_my_own.create_database()
    engine = open_database(url)
    store = AlertStore(engine)
    pair.kill_primary()
    pair.standby.promote()
    assert store.counts().findings == 0  # by a new connection, which knows the new timeline
    pair.primary.start()
    engine.dispose()  # as when the pool makes more connections
    with store.transaction() as transaction:
        transaction.insert_findings([a_finding()])
    name = url.rpartition("/")[2]
    for server, count in ((pair.standby, 1), (pair.primary, 0)):
        other = open_database(server.url(name), read_only=True)
        assert AlertStore(other).counts().findings == count
        other.dispose()
    checks = database_checks(a_site(tmp_path, url))
    split = "one of several that accept writes: stop those on older timelines"
    assert [each.found for each in checks[1:]] == [
        f"primary, timeline 1: {split}",
        f"primary, timeline 2: {split}",
    ]
    pair.standby.stop("immediate")
    with pytest.raises(StorageFailing, match=r"is an old primary: it is on timeline 1, .* 2: stop"):
        store.counts()
    engine.dispose()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", FailoverKind)
def test_failover_loses_nothing_and_doubles_nothing(tmp_path: Path, how: FailoverKind) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    result = fail_over(tmp_path, how, random.Random(seed))
    print(result)
    assert result.seconds < 15
    if how is not FailoverKind.BEHIND:  # which loses marks
        assert result.again == 0

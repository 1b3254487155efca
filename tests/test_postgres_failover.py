"""A primary and its standby: which host is used, what a standby is good for, and failovers."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from deploy_fixtures import Command, running
from postgres_failover import How, fail_over
from postgres_pair import Pair, ask, replicating
from storage_fixtures import a_finding, an_incident, by_rule, wait_for
from test_commands_on_both_databases import READING, SITE, write_log

from deploy.config_file import read_settings
from deploy.connections import check_connections
from deploy.data import LOG_FILE
from storage.checkup import Check
from storage.database import open_database
from storage.errors import StorageFailing
from storage.incidents import IncidentStore

pytestmark = pytest.mark.slow
NOBODY = "127.0.0.1:1"


@pytest.fixture(scope="module", name="pair")
def following_pair() -> Iterator[Pair]:
    """A pair whose standby stays one."""
    with replicating() as pair:
        yield pair


@pytest.fixture
def pair_of_my_own() -> Iterator[Pair]:
    with replicating(synchronous=True) as pair:
        yield pair


def at(*hosts: str, url: str) -> str:
    return re.sub(r"@[^/]+/", f"@{','.join(hosts)}/", url)


def host(port: int) -> str:
    return f"127.0.0.1:{port}"


def a_site(folder: Path, url: str) -> Path:
    file = folder / "longwatch.yaml"
    file.write_text(f"{SITE}database: {url}\n")
    return file


def database_checks(file: Path) -> list[Check]:
    return [each for each in check_connections(read_settings(file)) if "database" in each.name]


def test_standby_is_read_by_every_command_that_looks(
    pair: Pair, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNSET_KEY", "a1B2" * 8)
    write_log(tmp_path / LOG_FILE)
    url, standby = pair.new(), host(pair.standby.port)
    engine = open_database(url)
    with IncidentStore(engine).transaction() as ledger:
        ledger.save([by_rule(an_incident())])
    engine.dispose()
    pair.wait_until_level()
    for hosts in ([standby], [NOBODY, standby]):
        site = a_site(tmp_path, at(*hosts, url=url))
        for case in READING:
            said = command(*case.words.split(), "-c", site)
            assert "takes no writes" not in said.stderr, case.words
        assert "bag-left" in command("incidents", "list", "-c", site).stdout
        said = command("incidents", "ack", "0000", "--by", "ann", "-c", site)
        assert (said.returncode, said.stderr.count("\n")) == (1, 1)
        assert "takes no writes, as a standby does: promote it, or name the primary" in said.stderr
        assert standby in said.stderr


def test_checkup_names_each_host_and_what_it_is(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNSET_KEY", "a1B2" * 8)
    url = pair.new()
    primary, standby = host(pair.primary.port), host(pair.standby.port)
    _, *both = database_checks(a_site(tmp_path, url))
    assert [(each.name, each.found, each.is_good) for each in both] == [
        (f"database host {primary}", "primary, timeline 1", True),
        (f"database host {standby}", "standby", True),
    ]
    _, dead, alone = database_checks(a_site(tmp_path, at(NOBODY, standby, url=url)))
    assert (dead.is_good, "refused" in dead.found) == (False, True)
    assert alone.found == "standby: it takes no writes: promote it, or name the primary"
    assert not alone.is_good


def test_alert_waits_for_a_standby_to_be_promoted(
    pair_of_my_own: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNSET_KEY", "a1B2" * 8)
    pair, errors = pair_of_my_own, tmp_path / "errors"
    url = at(host(pair.standby.port), url=pair.new())
    with running("alert", "-c", a_site(tmp_path, url), errors=errors) as process:
        wait_for(lambda: "takes no writes" in errors.read_text())
        pair.primary.stop("fast")
        pair.standby.promote()
        engine = open_database(url)
        asks = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'longwatch'"
        engine.dispose()
        wait_for(lambda: int(str(ask(pair.standby, asks))) > 0)
        assert process.poll() is None
    said = [line for line in errors.read_text().splitlines() if "takes no writes" in line]
    assert len(said) == 1
    assert host(pair.standby.port) in said[0]
    assert "canary" not in errors.read_text()


def test_old_primary_that_comes_back_is_not_written_to(
    pair_of_my_own: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNSET_KEY", "a1B2" * 8)
    pair, url = pair_of_my_own, pair_of_my_own.new()
    engine = open_database(url)
    store = IncidentStore(engine)
    pair.kill_primary()
    pair.standby.promote()
    assert store.counts().findings == 0  # by a new connection, which knows the new timeline
    pair.primary.start()
    engine.dispose()  # as when the pool makes more connections
    with store.transaction() as ledger:
        ledger.insert_findings([a_finding()])
    name = url.rpartition("/")[2]
    for server, count in ((pair.standby, 1), (pair.primary, 0)):
        other = open_database(server.url(name), reading=True)
        assert IncidentStore(other).counts().findings == count
        other.dispose()
    checks = database_checks(a_site(tmp_path, url))
    split = "one of several that take writes: stop those on older timelines"
    assert [each.found for each in checks[1:]] == [
        f"primary, timeline 1: {split}",
        f"primary, timeline 2: {split}",
    ]
    pair.standby.stop("immediate")
    with pytest.raises(StorageFailing, match=r"is an old primary: it is on timeline 1, .* 2: stop"):
        store.counts()
    engine.dispose()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", How)
def test_failover_loses_nothing_and_doubles_nothing(tmp_path: Path, how: How) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    toll = fail_over(tmp_path, how, random.Random(seed))
    print(toll)
    assert toll.seconds < 15
    if how is not How.BEHIND:  # which loses marks
        assert toll.again == 0

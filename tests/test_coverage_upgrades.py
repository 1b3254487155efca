"""States that version 1 of a claim has not: upgrades in the order alert, analyze, ingest."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from alerts.intake import coverage_writer as of_alerts
from alerts.worker import AlertsWorker
from deploy.config.data_dir import DATABASE_FILE
from kit.coverage import claims_v1
from kit.coverage.claims import a_claim
from storage.db import database
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.db.rows.coverage import CoverageStore
from storage.errors import SchemaTooNew, Unreadable
from storage.log.dead_letters import read_dead_letters, requeue
from storage.log.sqlite.log import SqliteLog
from storage.records.claims import Claim, decode_claim, encode_claim
from storage.records.records import CoverageInterval, CoverageState, TimeSpan
from storage.records.topics import COVERAGE

NEW = [state for state in CoverageState if state not in claims_v1.STATES]
FIRST = "0017"
"""The schema from which on the ledger may hold the new states."""
SECOND = timedelta(seconds=1)
BEGAN = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)


@contextmanager
def older_release(folder: Path) -> Iterator[None]:
    """Be the release before, which knows neither the states nor the schema."""

    def is_ours(name: str) -> bool:
        return name == "__pycache__" or (name[:4].isdigit() and name[:4] >= FIRST)

    def without_ours(_: str, names: list[str]) -> list[str]:
        return [name for name in names if is_ours(name)]

    if not folder.exists():
        shutil.copytree(database.MIGRATIONS, folder, ignore=without_ours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", folder)
        patch.setattr(of_alerts, "decode_claim", claims_v1.decode_claim)
        yield


class Site:
    """A log, a database, and an `alert` of whichever release this process is."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / DATABASE_FILE}"
        self.log = SqliteLog(folder / "log.db")
        self._told = 0

    def claim(self, *states: CoverageState) -> None:
        """Claim a second of each state."""
        for state in states:
            start = BEGAN + self._told * SECOND
            claim = Claim(camera="dock", start=start, end=start + SECOND, state=state, reason="why")
            self.log.append(COVERAGE, "dock", encode_claim(claim))
            self._told += 1

    def alert(self) -> None:
        """Start `alert`, read all that is there, and stop; raises SchemaTooNew."""
        engine = open_database(self.url)
        judge = AlertsWorker(self.log, AlertStore(engine), (), keepalive=lambda seconds: None)
        while judge.run_once():
            pass
        engine.dispose()

    def states(self) -> list[CoverageState]:
        engine = open_database(self.url)
        found: list[CoverageInterval] = CoverageStore(engine).between(
            "dock", TimeSpan(start=BEGAN, end=BEGAN + timedelta(hours=1))
        )
        engine.dispose()
        return [each.state for each in found]

    def dead(self) -> list[str]:
        return [dead.reason for _, dead in read_dead_letters(self.log)]


@pytest.fixture(name="site")
def a_site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    with closing(site.log):
        yield site


def test_states_that_were_there_are_written_as_before() -> None:
    for state in CoverageState:
        claim = a_claim(0, 16, state, reason="why")
        value = encode_claim(claim)
        if state in NEW:
            with pytest.raises(Unreadable, match="version 2, not 1: upgrade longwatch, then"):
                claims_v1.decode_claim(value)
        else:
            assert claims_v1.decode_claim(value) == claim == decode_claim(value)


def test_upgrade_of_alert_first_and_ingest_last_makes_no_dead_letter(
    site: Site, tmp_path: Path
) -> None:
    old = CoverageState.CAMERA_DOWN
    with older_release(tmp_path / "older"):
        site.claim(old)
        site.alert()
    site.claim(CoverageState.ANALYSED)  # ingest and analyze are still the older ones
    site.alert()
    site.claim(*NEW)
    site.alert()
    assert site.dead() == []
    assert site.states() == [old, CoverageState.ANALYSED, *NEW]


def test_alert_that_is_rolled_back_reads_nothing_and_loses_nothing(
    site: Site, tmp_path: Path
) -> None:
    site.claim(CoverageState.ANALYSED, NEW[0])
    site.alert()
    site.claim(*NEW[1:])
    with (
        older_release(tmp_path / "older"),
        pytest.raises(SchemaTooNew, match=r"has schema \d+"),
    ):
        site.alert()
    assert site.dead() == []
    site.alert()
    assert site.states() == [CoverageState.ANALYSED, *NEW]


def test_ingest_that_is_upgraded_first_leaves_dead_letters_that_are_read_again(
    site: Site, tmp_path: Path
) -> None:
    with older_release(tmp_path / "older"):
        site.claim(CoverageState.ANALYSED, *NEW)
        site.alert()
        assert site.states() == [CoverageState.ANALYSED]
    upgrade = "version 2, not 1: upgrade longwatch, then `longwatch dead replay`"
    assert site.dead() == [upgrade] * len(NEW)
    assert requeue(site.log) == (len(NEW), 0)
    site.alert()
    assert site.states() == [CoverageState.ANALYSED, *NEW]


def changed(change: Callable[[dict[str, object]], object]) -> bytes:
    fields = json.loads(encode_claim(a_claim(0, 16, CoverageState.MOVED)))
    change(fields)
    return json.dumps(fields).encode()


def test_a_state_that_is_added_later_is_kept_as_the_one_that_stands_for_it() -> None:
    later = changed(lambda fields: fields.update(state="fogged", base="moved"))
    assert decode_claim(later) == a_claim(0, 16, CoverageState.MOVED, reason="fogged")
    told = changed(lambda fields: fields.update(state="fogged", base="moved", reason="mist"))
    assert decode_claim(told) == a_claim(0, 16, CoverageState.MOVED, reason="mist")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda fields: fields.update(base="fogged"), "base: Input should be 'ingest_down'"),
        (lambda fields: fields.pop("base"), "base: missing"),
        (lambda fields: fields.update(state=""), "state: String should have at least 1 character"),
        (lambda fields: fields.update(more=1), "1 unknown fields"),
    ],
)
def test_claims_of_version_2_are_read_exactly(
    change: Callable[[dict[str, object]], object], reason: str
) -> None:
    with pytest.raises(Unreadable, match=reason):
        decode_claim(changed(change))


@pytest.mark.parametrize("state", NEW)
def test_bytes_of_version_2_stay_readable(state: CoverageState) -> None:
    golden = (Path(__file__).parent / "golden" / "wire" / f"claim-{state}.v2").read_bytes()
    claim = a_claim(0, 16, state, reason="no picture came for 5 s")
    assert decode_claim(golden) == claim
    assert encode_claim(claim) == golden

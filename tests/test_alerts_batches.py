"""A look of the judge: one transaction for all that waits, as if each entry had been alone."""

from datetime import timedelta
from pathlib import Path
from shutil import copyfile

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from alerts.incidents.publisher import Publisher
from alerts.intake.cursor import READER
from alerts.rules.health import HEALTH_PREFIX
from alerts.rules.rule import Rule
from alerts.worker import AlertsWorker
from kit.alerts.webhook_receiver import publish_all
from kit.coverage.claims import a_claim
from kit.storage.fixtures import a_finding
from storage.db.alert_store import AlertStore
from storage.db.database import engine_for, open_database
from storage.log.log import Log
from storage.log.memory_log import MemoryLog
from storage.records.claims import Claim, encode_claim
from storage.records.records import CoverageState, Incident
from storage.records.topics import COVERAGE, FINDINGS, INCIDENTS
from storage.records.wire import decode_incident, encode_finding

EXAMPLES = 6
CAMERAS = ("dock", "yard")
LONG = timedelta(days=1000)
BAG = Rule(name="bag", question="bag", above=0.8, below=0.5)
HEALTH = [
    Rule(
        name=f"{state}-{seconds}",
        question=HEALTH_PREFIX + state,
        above=0.5,
        below=0.5,
        for_=timedelta(seconds=seconds),
        keep_firing_for=timedelta(seconds=seconds),
        stale_after=LONG,
    )
    for state in ("camera_down", "frozen", "unwatched")
    for seconds in (0, 20)
]


def judge(log: Log, engine: Engine, batch: int) -> AlertsWorker:
    store = AlertStore(engine)
    rules, publisher = [BAG, *HEALTH], Publisher(log, store)
    return AlertsWorker(log, store, rules, lambda _: None, publisher=publisher, batch=batch)


def append_claims(log: Log, claims: list[Claim]) -> None:
    for claim in claims:
        log.append(COVERAGE, claim.camera, encode_claim(claim))


@st.composite
def claims(draw: st.DrawFn) -> list[Claim]:
    """A camera's claims are mostly in order; some come late, twice or overlap."""
    found, reached = list[Claim](), dict.fromkeys(CAMERAS, 0)
    for _ in range(draw(st.integers(1, 25))):
        camera = draw(st.sampled_from(CAMERAS))
        start = max(0, reached[camera] + draw(st.sampled_from([0, 0, 0, 0, 8, -8, -40])))
        end = start + draw(st.integers(1, 30))
        state = draw(st.sampled_from(CoverageState))
        reason = draw(st.sampled_from(["", "silent", "refused"]))
        begins = start if draw(st.integers(0, 5)) else None
        found.append(a_claim(begins, end, state, camera, reason))
        reached[camera] = max(reached[camera], end)
    return found


def incidents(empty: Path, given_claims: list[Claim], batch: int) -> list[Incident]:
    """Return every revision of the incidents that claims lead to, in order."""
    used = empty.with_name("used.db")
    copyfile(empty, used)
    engine, log = engine_for(f"sqlite:///{used}"), MemoryLog()
    append_claims(log, given_claims)
    worker = judge(log, engine, batch)
    while worker.run_once():
        pass
    publish_all(log, AlertStore(engine))
    engine.dispose()
    return [decode_incident(entry.value) for entry in log.read(INCIDENTS, 0, limit=10_000)]


def test_health_rules_open_and_resolve_as_if_each_claim_came_alone(tmp_path: Path) -> None:
    empty, began = tmp_path / "empty.db", set[str]()
    open_database(f"sqlite:///{empty}").dispose()

    @settings(deadline=None, max_examples=EXAMPLES)
    @given(given_claims=claims())
    def one(given_claims: list[Claim]) -> None:
        alone = incidents(empty, given_claims, batch=1)
        assert incidents(empty, given_claims, batch=500) == alone
        began.update(each.state for each in alone)

    one()
    assert {"open", "resolved"} <= began


def writing_commits(engine: Engine, worker: AlertsWorker) -> int:
    """Return how many transactions that write one look makes."""
    written, commits = list[str](), list[int]()

    def note(_: object, __: object, statement: str, *___: object) -> None:
        if statement.split(maxsplit=1)[0] in ("INSERT", "UPDATE", "DELETE"):
            written.append(statement)

    def commit(_: object) -> None:
        if written:
            commits.append(len(written))
        written.clear()

    event.listen(engine, "before_cursor_execute", note)
    event.listen(engine, "commit", commit)
    worker.run_once()
    return len(commits)


def test_what_waits_in_all_parts_is_one_transaction(engine: Engine) -> None:
    log = MemoryLog(partitions=12)
    judge(log, engine, 500).run_once()
    for number in range(40):
        camera = f"camera-{number}"
        log.append(FINDINGS, camera, encode_finding(a_finding(number, camera=camera)))
        append_claims(log, [a_claim(0, 16, CoverageState.FROZEN, camera)])
    assert writing_commits(engine, judge(log, engine, 500)) == 1
    store = AlertStore(engine)
    assert sum(each.offset for each in store.stored_offsets(READER).values()) == 80
    assert {each.rule for each in store.incidents()} == {"bag", "frozen-0", "frozen-20"}
    engine.dispose()


def test_no_transaction_holds_more_than_a_batch(engine: Engine) -> None:
    log = MemoryLog(partitions=12)
    judge(log, engine, 500).run_once()
    for number in range(30):
        camera = f"camera-{number}"
        log.append(FINDINGS, camera, encode_finding(a_finding(number, camera=camera)))
    assert 3 <= writing_commits(engine, judge(log, engine, 10)) <= 6
    assert sum(each.offset for each in AlertStore(engine).stored_offsets(READER).values()) == 30
    engine.dispose()

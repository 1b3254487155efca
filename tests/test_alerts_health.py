"""What rules see of the ledger of coverage, and the heartbeat."""

import ast
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from alerts.dispatch.heartbeat import Heartbeat
from alerts.rules.health import (
    COVERAGE_STATES,
    HEALTH_PREFIX,
    HEALTH_SENTENCES,
    HealthState,
    health_samples,
    unreported_samples,
)
from alerts.rules.rule import Rule, RuleSample
from kit.alerts.samples import MINUTE, RULE, fold
from kit.storage.fixtures import START
from storage.records.records import CoverageState, IncidentState

DOWN = replace(
    RULE,
    name="down",
    question="health/camera_down",
    above=0.5,
    below=0.5,
    stale_after=9999 * MINUTE,
)
OPEN, RESOLVED, PENDING = IncidentState.OPEN, IncidentState.RESOLVED, IncidentState.PENDING
DISMISSED = IncidentState.DISMISSED


def coverage_samples(*intervals: tuple[str, float, float]) -> list[RuleSample]:
    """Return what the ledger tells of intervals, in minutes."""
    return [
        sample
        for state, start, end in intervals
        for sample in health_samples("dock", state, START + start * MINUTE, START + end * MINUTE)
    ]


@pytest.mark.parametrize(
    ("state", "holding"),
    [
        ("analysed", []),
        ("waiting", []),
        ("camera_down", ["camera_down", "unwatched"]),
        ("stream_broken", ["stream_broken", "unwatched"]),
        ("overloaded", ["overloaded", "unwatched"]),
        ("moved", ["moved"]),
        ("frozen", ["frozen"]),
        ("covered", ["covered"]),
        ("ingest_down", ["unwatched"]),
        ("analyzer_down", ["unwatched"]),
        ("shed", ["unwatched"]),
        ("corrupt", ["unwatched"]),
    ],
)
def test_states_of_the_ledger_answer_health_questions(state: str, holding: list[str]) -> None:
    samples = coverage_samples((state, 0, 5))
    assert {each.question for each in samples if each.score} == {
        HEALTH_PREFIX + name for name in holding
    }
    cleared = {HEALTH_PREFIX + name for name in COVERAGE_STATES}
    missing = cleared - {each.question for each in samples}
    assert missing == ({"health/unwatched"} if state == "waiting" else set())


@pytest.mark.parametrize(
    ("for_", "intervals", "expected"),
    [
        (0, [("camera_down", 0, 1)], [OPEN]),
        (5, [("camera_down", 0, 1)], [PENDING]),
        (5, [("camera_down", 0, 1), ("camera_down", 0, 4.9)], [PENDING]),
        (5, [("camera_down", 0, 1), ("camera_down", 0, 5)], [OPEN]),
        (5, [("camera_down", 0, 600)], [OPEN]),
        (5, [("camera_down", 0, 1), ("analysed", 1, 2)], [DISMISSED]),
        (5, [("camera_down", 0, 9), ("analysed", 9, 9.5)], [RESOLVED]),
        (5, [("camera_down", 0, 9), ("waiting", 9, 9.5)], [RESOLVED]),
        (0, [("camera_down", 0, 1), ("analysed", 1, 2), ("camera_down", 2, 3)], [RESOLVED, OPEN]),
    ],
)
def test_health_rule_follows_the_ledger(
    for_: float, intervals: list[tuple[str, float, float]], expected: list[IncidentState]
) -> None:
    incidents = fold(replace(DOWN, for_=for_ * MINUTE), coverage_samples(*intervals))
    assert [incident.state for incident in incidents] == expected
    assert incidents[0].first_seen_at == START


@pytest.mark.parametrize(
    ("state", "given", "question", "told"),
    [
        ("camera_down", "it refuses the password", "camera_down", "it refuses the password"),
        ("camera_down", "it refuses the password", "unwatched", "it refuses the password"),
        ("camera_down", "", "camera_down", ""),
        ("camera_down", "", "unwatched", "the camera is down"),
        ("ingest_down", "", "unwatched", "the camera's process was not running"),
        ("analyzer_down", "", "unwatched", "the analyzer was not running"),
        ("stream_broken", "a keyframe is missing", "stream_broken", "a keyframe is missing"),
        ("stream_broken", "", "unwatched", "the camera's stream gives no pictures"),
        ("overloaded", "7 s behind", "overloaded", "7 s behind"),
        ("overloaded", "7 s behind", "unwatched", "7 s behind"),
        ("overloaded", "", "unwatched", "the machine that reads the camera is too slow"),
        ("shed", "", "unwatched", "analysis is slower than the cameras"),
        ("corrupt", "", "unwatched", "windows could not be analysed"),
    ],
)
def test_what_holds_says_why(state: str, given: str, question: str, told: str) -> None:
    samples = list(health_samples("dock", state, START, START + MINUTE, given))
    assert [each.reason for each in samples if each.question == HEALTH_PREFIX + question] == [
        told
    ] * 2
    assert not [each.reason for each in samples if not each.score and each.reason]


def test_incident_has_the_latest_reason_that_is_known() -> None:
    reasons = ["fell silent", "", "refuses the password", "refuses the password", ""]
    samples = [
        sample
        for n, why in enumerate(reasons)
        for sample in health_samples(
            "dock", "camera_down", START + n * MINUTE, START + (n + 1) * MINUTE, why
        )
    ]
    (incident,) = fold(DOWN, samples)
    assert incident.reason == "refuses the password"
    (early,) = fold(DOWN, samples[: len(samples) // 5 * 2])
    assert early.reason == "fell silent"
    back = health_samples("dock", "analysed", START + 9 * MINUTE, START + 10 * MINUTE)
    (over,) = fold(DOWN, [*samples, *back])
    assert (over.state, over.reason) == (RESOLVED, "refuses the password")


def test_ledger_that_says_nothing_says_that_nobody_watches() -> None:
    rule: Rule = replace(DOWN, question="health/unwatched", for_=MINUTE)
    assert list(unreported_samples("dock", START, START + MINUTE)) == []
    early = list(unreported_samples("dock", START, START + 1.5 * MINUTE))
    late = list(unreported_samples("dock", START, START + 2 * MINUTE))
    assert [each.state for each in fold(rule, early)] == [PENDING]
    assert [each.state for each in fold(rule, [*early, *late])] == [OPEN]
    back = coverage_samples(("analysed", 2, 3))
    assert [each.state for each in fold(rule, [*early, *late, *back])] == [RESOLVED]


@pytest.mark.parametrize("state", CoverageState)
def test_every_state_is_of_a_health_rule_or_nothing_to_worry_about(state: CoverageState) -> None:
    asked = {name for name, states in COVERAGE_STATES.items() if state in states}
    assert bool(asked) is (state not in {CoverageState.WAITING, CoverageState.ANALYSED})


def test_every_health_state_has_a_sentence() -> None:
    assert set(HEALTH_SENTENCES) == set(HealthState)


def test_health_states_are_listed_in_one_file() -> None:
    """A health rule on a state of coverage takes a change of `alerts/rules/health.py` alone."""
    root = Path(__file__).parents[1]
    names = {state.value for state in set(HealthState) - set(map(str, CoverageState))}
    naming = {
        path.relative_to(root).as_posix()
        for folder in ("alerts", "deploy")
        for path in (root / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert naming == {"alerts/rules/health.py"}


def test_heartbeat_is_due_once_in_its_time() -> None:
    beat = Heartbeat(every=timedelta(minutes=1), notify=("watchdog",))
    now = datetime(2026, 11, 23, 8, 0, 30, tzinfo=UTC)
    assert beat.is_due(None, now)
    assert not beat.is_due(now, now + timedelta(seconds=29))
    assert beat.is_due(now, now + timedelta(seconds=30))
    assert beat.number(now + timedelta(minutes=1)) == beat.number(now) + 1


def test_heartbeat_goes_on_when_the_clock_is_set_back() -> None:
    beat = Heartbeat(every=timedelta(minutes=1), notify=("watchdog",))
    now = datetime(2026, 11, 23, 8, tzinfo=UTC)
    assert beat.is_due(now, now - timedelta(hours=1))

import pickle
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from alerts.hours import Hours
from alerts.rules.lifecycle import acknowledge, resolve, sweep
from alerts.rules.replay import next_revisions, overdue_revisions
from alerts.rules.rule import Rule, is_about, sample_from_finding
from kit.alerts.samples import MINUTE, RULE, a_sample, fold, sample_at, samples_of
from kit.storage.fixtures import START, WINDOW_LENGTH, a_finding
from storage.records import wire
from storage.records.records import Incident, IncidentState

PENDING, OPEN = IncidentState.PENDING, IncidentState.OPEN
RESOLVED, DISMISSED = IncidentState.RESOLVED, IncidentState.DISMISSED
ACKNOWLEDGED = IncidentState.ACKNOWLEDGED
NEVER = Hours.parse("Mon 03:00-03:01 UTC")  # START is a Sunday, 08:00


def judged(rule: Rule, *scores: float) -> list[IncidentState]:
    return [incident.state for incident in fold(rule, samples_of(*scores))]


def live(rule: Rule = RULE, number: int = 0) -> Incident:
    (incident,) = next_revisions(rule, None, a_sample(number))
    return incident


@pytest.mark.parametrize(
    ("rule", "scores", "expected"),
    [
        (RULE, (0.7, 0.79), []),
        (RULE, (0.8,), [OPEN]),
        (RULE, (0.9, 0.5, 0.79), [OPEN]),
        (RULE, (0.9, 0.49), [RESOLVED]),
        (RULE, (0.9, 0.6, 0.4, 0.6, 0.9), [RESOLVED, OPEN]),
        (replace(RULE, for_=WINDOW_LENGTH), (0.9,), [PENDING]),
        (replace(RULE, for_=WINDOW_LENGTH), (0.9, 0.9), [OPEN]),
        (replace(RULE, for_=WINDOW_LENGTH), (0.9, 0.6), [PENDING]),
        (replace(RULE, for_=WINDOW_LENGTH), (0.9, 0.6, 0.9), [OPEN]),
        (replace(RULE, for_=WINDOW_LENGTH), (0.9, 0.4), [DISMISSED]),
        (replace(RULE, for_=2 * WINDOW_LENGTH), (0.9, 0.9, 0.4, 0.9, 0.9), [DISMISSED, PENDING]),
        (replace(RULE, keep_firing_for=2 * WINDOW_LENGTH), (0.9, 0.1), [OPEN]),
        (replace(RULE, keep_firing_for=2 * WINDOW_LENGTH), (0.9, 0.1, 0.1), [RESOLVED]),
        (replace(RULE, keep_firing_for=2 * WINDOW_LENGTH), (0.9, 0.1, 0.6, 0.1), [OPEN]),
        (replace(RULE, below=0.8), (0.9, 0.79), [RESOLVED]),
    ],
)
def test_scores_make_incidents(
    rule: Rule, scores: tuple[float, ...], expected: list[IncidentState]
) -> None:
    assert judged(rule, *scores) == expected


def test_incident_tells_when_and_why() -> None:
    rule = replace(RULE, for_=2 * WINDOW_LENGTH, keep_firing_for=WINDOW_LENGTH, severity="high")
    samples = samples_of(0.2, 0.9, 0.6, 0.95, 0.3)
    (incident,) = fold(rule, samples)
    assert incident.camera == "dock"
    assert (incident.rule, incident.rule_version) == (rule.name, rule.version)
    assert incident.severity == "high"
    assert incident.first_seen_at == samples[1].at
    assert incident.opened_at == samples[3].at
    assert incident.last_seen_at == samples[3].at
    assert incident.closed_at == samples[4].at
    assert incident.closed_because == "rule"
    assert incident.evidence == (samples[1].id, samples[3].id)
    assert incident.revision == 4
    assert incident.summary == "bag-left on dock"


def test_sample_of_a_finding_is_of_the_end_of_its_window() -> None:
    finding = a_finding()
    assert sample_from_finding(finding).at == finding.end
    assert (sample_from_finding(finding).id, sample_from_finding(finding).score) == (
        finding.id,
        finding.score,
    )


@pytest.mark.parametrize("score", [0.1, 0.6, 0.9])
@pytest.mark.parametrize("rule", [RULE, replace(RULE, for_=WINDOW_LENGTH)])
def test_sample_that_comes_late_rewrites_nothing(rule: Rule, score: float) -> None:
    incident = live(rule, 5)
    assert next_revisions(rule, incident, a_sample(4, score)) == ()
    assert next_revisions(rule, incident, a_sample(5, score)) == ()


def test_sample_from_before_the_end_of_an_incident_begins_no_other() -> None:
    rule = replace(RULE, keep_firing_for=2 * WINDOW_LENGTH)
    (resolved,) = fold(rule, samples_of(0.9, 0.1, 0.1))
    assert next_revisions(rule, resolved, a_sample(1)) == ()
    assert next_revisions(rule, resolved, a_sample(2)) == ()
    (other,) = next_revisions(rule, resolved, a_sample(3))
    assert (other.state, other.revision) == (OPEN, 1)


def test_what_a_person_or_the_clock_closed_hides_no_sample_that_comes_later() -> None:
    open_ = live()
    much_later = START + timedelta(hours=2)
    for closed in (resolve(open_, "ada", much_later), sweep(open_, much_later)):
        (other,) = next_revisions(RULE, closed, a_sample(1))
        assert other.id != open_.id
        assert next_revisions(RULE, closed, a_sample(0)) == ()


def test_acknowledged_incident_is_kept_alive_and_resolved_but_never_unacknowledged() -> None:
    taken = acknowledge(live(), "ada", START)
    (kept,) = next_revisions(RULE, taken, a_sample(1))
    assert (kept.state, kept.last_seen_at) == (ACKNOWLEDGED, a_sample(1).at)
    (resolved,) = next_revisions(RULE, kept, a_sample(2, 0.1))
    assert (resolved.state, resolved.acknowledged_by) == (RESOLVED, "ada")


def test_silence_ends_what_is_pending_at_its_last_sample() -> None:
    rule = replace(RULE, for_=timedelta(minutes=10))
    before, after = a_sample(0), a_sample(100)
    dismissed, pending = fold(rule, [before, after])
    assert (dismissed.state, dismissed.closed_at) == (DISMISSED, before.at)
    assert (pending.state, pending.first_seen_at) == (PENDING, after.at)


def test_silence_within_the_bound_counts_as_lasting() -> None:
    rule = replace(RULE, for_=timedelta(minutes=5), stale_after=timedelta(minutes=5))
    early = a_sample(0)
    late = replace(a_sample(1), at=early.at + rule.stale_after)
    assert [incident.state for incident in fold(rule, [early, late])] == [OPEN]


def test_silence_resolves_nothing_that_is_open() -> None:
    assert [incident.state for incident in fold(RULE, [a_sample(0), a_sample(9999)])] == [OPEN]


def test_quiet_time_holds_the_next_incident_back() -> None:
    rule = replace(RULE, quiet=3 * WINDOW_LENGTH)
    assert judged(rule, 0.9, 0.1, 0.9, 0.9) == [RESOLVED]
    first, second = fold(rule, samples_of(0.9, 0.1, 0.9, 0.9, 0.9))
    assert second.first_seen_at == a_sample(4).at
    assert first.closed_at == second.first_seen_at - rule.quiet


def test_quiet_time_counts_whoever_closed_it_but_not_after_what_never_opened() -> None:
    rule = replace(RULE, quiet=3 * WINDOW_LENGTH)
    closed = resolve(live(rule), "ada", a_sample(1).at)
    assert next_revisions(rule, closed, a_sample(3)) == ()
    assert next_revisions(rule, closed, a_sample(4)) != ()
    patient = replace(rule, for_=WINDOW_LENGTH)
    assert judged(patient, 0.9, 0.1, 0.9, 0.9) == [DISMISSED, OPEN]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (RULE, [RESOLVED]),
        (replace(RULE, keep_firing_for=2 * MINUTE), [OPEN]),
        (replace(RULE, keep_firing_for=MINUTE), [RESOLVED]),
        (replace(RULE, for_=timedelta(minutes=5)), [DISMISSED]),
    ],
)
def test_outside_its_hours_a_rule_begins_nothing_and_keeps_nothing_alive(
    rule: Rule, expected: list[IncidentState]
) -> None:
    rule = replace(rule, active=Hours.parse("Sun 08:00-08:05 UTC"))
    times = [START + n * MINUTE for n in range(3, 6)]
    incidents = fold(rule, map(sample_at, times))
    assert [incident.state for incident in incidents] == expected
    assert incidents[0].first_seen_at == times[0]
    assert fold(replace(rule, active=NEVER), map(sample_at, times)) == []


def test_replay_makes_the_same_incident_and_another_version_another() -> None:
    assert live() == live()
    other = live(replace(RULE, above=0.7))
    assert other.id != live().id
    assert other.id.version == 5


def test_version_changes_with_what_decides_alone() -> None:
    decides: dict[str, Any] = {
        "question": "x",
        "above": 0.9,
        "below": 0.4,
        "for_": WINDOW_LENGTH,
        "keep_firing_for": WINDOW_LENGTH,
        "quiet": WINDOW_LENGTH,
        "active": NEVER,
        "then": "x",
        "without": "x",
        "within": WINDOW_LENGTH,
    }
    versions = {replace(RULE, **{name: value}).version for name, value in decides.items()}
    assert len(versions - {RULE.version}) == len(decides)
    told = replace(RULE, severity="low", notify=("soc",), cameras=("dock",), name="other")
    assert told.version == RULE.version


def test_rule_of_the_first_release_keeps_its_version() -> None:
    assert RULE.version == "591906813b9c"


def test_rule_keeps_its_version_on_the_way_to_another_process() -> None:
    rule = replace(RULE, active=NEVER)
    assert pickle.loads(pickle.dumps(rule)) == rule
    assert pickle.loads(pickle.dumps(rule)).version == rule.version


@pytest.mark.parametrize(
    ("cameras", "expected"),
    [
        ((), True),
        (("dock-1",), True),
        (("dock-*",), True),
        (("yard", "dock-?"), True),
        (("*",), True),
        (("dock",), False),
        (("yard-*",), False),
        (("*-2",), False),
    ],
)
def test_rule_watches_cameras_by_name_and_by_glob(cameras: tuple[str, ...], expected: bool) -> None:
    rule = replace(RULE, cameras=cameras)
    assert rule.has_camera("dock-1") is expected
    assert is_about(rule, a_sample(camera="dock-1")) is expected


def test_rule_looks_at_its_questions_alone() -> None:
    questions = ["bag", "go", "stay", "other"]
    for rule, seen in (
        (RULE, "bag"),
        (replace(RULE, then="go"), "bag go"),
        (replace(RULE, without="stay"), "bag stay"),
    ):
        looked = [each for each in questions if is_about(rule, a_sample(question=each))]
        assert looked == seen.split()


def test_evidence_keeps_the_beginning_and_the_end_of_a_long_incident() -> None:
    samples = [a_sample(n) for n in range(100)]
    (incident,) = fold(RULE, samples)
    ids = [sample.id for sample in samples]
    assert incident.evidence == (*ids[:8], *ids[-8:])
    assert wire.decode_incident(wire.encode_incident(incident)) == incident


def test_time_alone_changes_nothing_of_a_threshold() -> None:
    pending = live(replace(RULE, for_=WINDOW_LENGTH))
    assert overdue_revisions(RULE, pending, START + timedelta(days=1)) == ()

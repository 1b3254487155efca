from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from alerts_oracle import Story, stories
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_fixtures import EVERY, START, a_finding

from alerts.rules import Rule, changes, judge, retire
from storage import wire
from storage.records import Finding, Incident, IncidentState

patient = settings(deadline=None)  # a busy machine is no failure

PENDING, OPEN = IncidentState.PENDING, IncidentState.OPEN
RESOLVED, DISMISSED = IncidentState.RESOLVED, IncidentState.DISMISSED
RULE = Rule(name="bag-left", question="bag", above=0.8, below=0.5)


def fold(rule: Rule, findings: Iterable[Finding]) -> list[Incident]:
    """Return every incident that the findings make, as it stands at the end."""
    incidents: dict[object, Incident] = {}
    live: Incident | None = None
    for finding in findings:
        for incident in changes(rule, live, finding):
            incidents[incident.id] = incident
            live = None if incident.closed_at else incident
    return list(incidents.values())


def scored(*scores: float) -> list[Finding]:
    return [a_finding(n, score) for n, score in enumerate(scores)]


def judged(rule: Rule, *scores: float) -> list[IncidentState]:
    return [incident.state for incident in fold(rule, scored(*scores))]


@pytest.mark.parametrize(
    ("rule", "scores", "expected"),
    [
        (RULE, (0.7, 0.79), []),
        (RULE, (0.8,), [OPEN]),
        (RULE, (0.9, 0.5, 0.79), [OPEN]),
        (RULE, (0.9, 0.49), [RESOLVED]),
        (RULE, (0.9, 0.6, 0.4, 0.6, 0.9), [RESOLVED, OPEN]),
        (replace(RULE, for_=EVERY), (0.9,), [PENDING]),
        (replace(RULE, for_=EVERY), (0.9, 0.9), [OPEN]),
        (replace(RULE, for_=EVERY), (0.9, 0.6), [PENDING]),
        (replace(RULE, for_=EVERY), (0.9, 0.6, 0.9), [OPEN]),
        (replace(RULE, for_=EVERY), (0.9, 0.4), [DISMISSED]),
        (replace(RULE, for_=2 * EVERY), (0.9, 0.9, 0.4, 0.9, 0.9), [DISMISSED, PENDING]),
        (replace(RULE, keep_firing_for=2 * EVERY), (0.9, 0.1), [OPEN]),
        (replace(RULE, keep_firing_for=2 * EVERY), (0.9, 0.1, 0.1), [RESOLVED]),
        (replace(RULE, keep_firing_for=2 * EVERY), (0.9, 0.1, 0.6, 0.1), [OPEN]),
        (replace(RULE, below=0.8), (0.9, 0.79), [RESOLVED]),
    ],
)
def test_scores_make_incidents(
    rule: Rule, scores: tuple[float, ...], expected: list[IncidentState]
) -> None:
    assert judged(rule, *scores) == expected


def test_incident_tells_when_and_why() -> None:
    rule = replace(RULE, for_=2 * EVERY, keep_firing_for=EVERY, severity="high")
    findings = scored(0.2, 0.9, 0.6, 0.95, 0.3)
    (incident,) = fold(rule, findings)
    assert incident.camera == "dock"
    assert (incident.rule, incident.rule_version) == (rule.name, rule.version)
    assert incident.severity == "high"
    assert incident.first_seen_at == findings[1].end
    assert incident.opened_at == findings[3].end
    assert incident.last_seen_at == findings[3].end
    assert incident.closed_at == findings[4].end
    assert incident.evidence == (findings[1].id, findings[3].id)
    assert incident.revision == 4


def test_nothing_that_changes_nothing_makes_a_new_object() -> None:
    open_ = judge(RULE, None, a_finding(3))
    assert open_ is not None
    assert judge(RULE, None, a_finding(0, 0.2)) is None
    assert judge(RULE, open_, a_finding(3)) is open_
    patient = replace(RULE, keep_firing_for=timedelta(hours=1))
    assert judge(patient, open_, a_finding(4, 0.1)) is open_


@pytest.mark.parametrize("score", [0.1, 0.6, 0.9])
@pytest.mark.parametrize("rule", [RULE, replace(RULE, for_=EVERY)])
def test_finding_that_comes_late_rewrites_nothing(rule: Rule, score: float) -> None:
    incident = judge(rule, None, a_finding(5))
    assert judge(rule, incident, a_finding(4, score)) is incident
    assert judge(rule, incident, a_finding(5, score)) is incident


def test_silence_ends_what_is_pending_at_its_last_finding() -> None:
    rule = replace(RULE, for_=timedelta(minutes=10))
    before, after = a_finding(0), a_finding(100)
    dismissed, pending = fold(rule, [before, after])
    assert (dismissed.state, dismissed.closed_at) == (DISMISSED, before.end)
    assert (pending.state, pending.first_seen_at) == (PENDING, after.end)


def test_silence_within_the_bound_counts_as_lasting() -> None:
    rule = replace(RULE, for_=timedelta(minutes=5), stale_after=timedelta(minutes=5))
    early = a_finding(0)
    late = replace(a_finding(1), end=early.end + rule.stale_after)
    assert [incident.state for incident in fold(rule, [early, late])] == [OPEN]


def test_silence_resolves_nothing_that_is_open() -> None:
    assert [incident.state for incident in fold(RULE, [a_finding(0), a_finding(9999)])] == [OPEN]


def test_replay_makes_the_same_incident_and_another_version_another() -> None:
    one, same = judge(RULE, None, a_finding()), judge(RULE, None, a_finding())
    other = judge(replace(RULE, above=0.7), None, a_finding())
    assert one is not None
    assert other is not None
    assert one == same
    assert one.id.version == 5
    assert other.id != one.id


def test_version_changes_with_what_decides_alone() -> None:
    decides: dict[str, Any] = {
        "question": "x",
        "above": 0.9,
        "below": 0.4,
        "for_": EVERY,
        "keep_firing_for": EVERY,
    }
    for name, value in decides.items():
        assert replace(RULE, **{name: value}).version != RULE.version
    told = replace(RULE, severity="low", notify=("soc",), cameras=("dock",), name="other")
    assert told.version == RULE.version


def test_rule_without_cameras_watches_all() -> None:
    assert RULE.watches("dock")
    assert replace(RULE, cameras=("dock",)).watches("dock")
    assert not replace(RULE, cameras=("yard",)).watches("dock")


@pytest.mark.parametrize("for_", [timedelta(), EVERY])
def test_retired_incident_ends_when_it_was_last_seen(for_: timedelta) -> None:
    live = judge(replace(RULE, for_=for_), None, a_finding())
    assert live is not None
    retired = retire(live)
    assert retired.state is (DISMISSED if for_ else RESOLVED)
    assert (retired.closed_at, retired.revision) == (live.last_seen_at, 2)


def test_evidence_keeps_the_beginning_and_the_end_of_a_long_incident() -> None:
    findings = [a_finding(n) for n in range(100)]
    (incident,) = fold(RULE, findings)
    ids = [finding.id for finding in findings]
    assert incident.evidence == (*ids[:8], *ids[-8:])
    assert wire.decode_incident(wire.encode_incident(incident)) == incident


seconds = st.sampled_from([0, 1, 2, 3, 7, 20]).map(lambda n: timedelta(seconds=n))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    below, above = sorted(draw(st.tuples(*[st.sampled_from([0.25, 0.5, 0.75])] * 2)))
    return Rule(
        name="rule",
        question="bag",
        above=above,
        below=below,
        for_=draw(seconds),
        keep_firing_for=draw(seconds),
        stale_after=draw(st.sampled_from([2, 5]).map(lambda n: timedelta(seconds=n))),
    )


@st.composite
def streams(draw: st.DrawFn) -> list[Finding]:
    steps = draw(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 8)), max_size=30))
    end, findings = START, []
    for n, (step, eighths) in enumerate(steps):
        end += timedelta(seconds=step)
        finding = replace(a_finding(n, eighths / 8), end=end)
        findings.append(finding)
    return findings


@patient
@given(rules(), streams())
def test_fold_agrees_with_looking_at_everything_at_once(
    rule: Rule, findings: list[Finding]
) -> None:
    assert [
        Story(
            incident.state,
            incident.first_seen_at,
            incident.opened_at,
            incident.last_seen_at,
            incident.closed_at,
        )
        for incident in fold(rule, findings)
    ] == stories(rule, findings)


@patient
@given(rules(), streams(), st.data())
def test_folding_an_older_finding_again_changes_nothing(
    rule: Rule, findings: list[Finding], data: st.DataObject
) -> None:
    live: Incident | None = None
    for n, finding in enumerate(findings):
        for incident in changes(rule, live, finding):
            wire.encode_incident(incident)
            live = None if incident.closed_at else incident
        older = data.draw(st.integers(0, n))
        if live is not None and findings[older].end <= live.last_seen_at:
            assert changes(rule, live, findings[older]) == ()

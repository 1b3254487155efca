"""The fold against looking at everything at once, through crashes, replays and disorder."""

import pickle
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from alerts.hours import Hours
from alerts.rules.lifecycle import acknowledge
from alerts.rules.replay import next_revisions, overdue_revisions
from alerts.rules.rule import Rule, RuleSample
from kit.alerts.oracle import TICK, IncidentTimeline, expected_timelines, timeline_of
from kit.alerts.samples import MINUTE, sample_at
from kit.storage.fixtures import START
from storage.records.records import Incident, IncidentState
from storage.records.wire import decode_incident, encode_incident

times = st.sampled_from([0, 0, 1, 2, 3, 7, 20]).map(lambda n: n * MINUTE)
scores = st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.6, 0.75, 0.9, 1.0])
hours = st.sampled_from([None, None, Hours.parse("08:05-08:20 UTC", "08:30-09:30 UTC")])


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    below, above = sorted(draw(st.tuples(*[st.sampled_from([0.25, 0.5, 0.75])] * 2)))
    plain = Rule(
        name="rule",
        question="bag",
        above=above,
        below=below,
        quiet=draw(times),
        active=draw(hours),
        stale_after=draw(st.sampled_from([2, 5])) * MINUTE,
    )
    match draw(st.sampled_from(["threshold", "then", "without"])):
        case "then":
            within = draw(st.sampled_from([1, 3, 8])) * MINUTE
            return replace(plain, then="go", within=within, keep_firing_for=draw(times))
        case "without":
            return replace(plain, without="go", within=draw(st.sampled_from([1, 3, 8])) * MINUTE)
        case _:
            return replace(plain, for_=draw(times), keep_firing_for=draw(times))


class FoldMachine(RuleBasedStateMachine):
    """A judge that keeps each revision in its stored form, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.heard: list[RuleSample] = []
        self.stored: dict[object, bytes] = {}
        self.latest: bytes | None = None

    @initialize(drawn=rules())
    def begin(self, drawn: Rule) -> None:
        self.rule = drawn

    @rule(
        later=st.integers(1, 6),
        first=st.none() | scores,
        second=st.none() | scores,
        disorder=st.booleans(),
        crash=st.booleans(),
    )
    def window(
        self, later: int, first: float | None, second: float | None, disorder: bool, crash: bool
    ) -> None:
        """The answers about one window come in any order."""
        self.now += later * MINUTE
        answers = [("bag", first), ("go", second if self.rule.is_sequence else None)]
        samples = [
            sample_at(self.now, score, about) for about, score in answers if score is not None
        ]
        self.heard += samples
        for sample in reversed(samples) if disorder else samples:
            if crash:
                next_revisions(self.rule, self.newest(), sample)
            self.keep(next_revisions(self.rule, self.newest(), sample))

    @precondition(lambda self: self.heard)
    @rule(data=st.data())
    def duplicate(self, data: st.DataObject) -> None:
        sample = data.draw(st.sampled_from(self.heard))
        if sample.question != TICK:
            assert next_revisions(self.rule, self.newest(), sample) == ()

    @rule()
    def restart(self) -> None:
        self.rule = pickle.loads(pickle.dumps(self.rule))

    @precondition(lambda self: self.rule.is_sequence)
    @rule(later=st.integers(1, 9))
    def tick(self, later: int) -> None:
        self.now += later * MINUTE
        self.heard.append(sample_at(self.now, 0.0, TICK))
        self.keep(overdue_revisions(self.rule, self.newest(), self.now))

    @precondition(lambda self: self.latest and self.newest().state is IncidentState.OPEN)
    @rule()
    def acknowledge(self) -> None:
        newest = self.newest()
        assert newest is not None
        self.keep((acknowledge(newest, "ada", self.now),))

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "rule"):
            return
        published = [as_open(timeline_of(decode_incident(value))) for value in self.stored.values()]
        assert published == expected_timelines(self.rule, self.heard)

    def newest(self) -> Incident | None:
        return None if self.latest is None else decode_incident(self.latest)

    def keep(self, revisions: tuple[Incident, ...]) -> None:
        for revision in revisions:
            before = self.stored.get(revision.id)
            stands = 0 if before is None else decode_incident(before).revision
            assert revision.revision == stands + 1
            if before is None and self.latest is not None:
                assert not decode_incident(self.latest).is_live
            self.latest = self.stored[revision.id] = encode_incident(revision)


def as_open(story: IncidentTimeline) -> IncidentTimeline:
    acknowledged = story.state is IncidentState.ACKNOWLEDGED
    return replace(story, state=IncidentState.OPEN) if acknowledged else story


def run_machine(examples: int) -> None:
    given = settings(
        deadline=None,
        max_examples=examples,
        stateful_step_count=30,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(FoldMachine, settings=given)


def test_fold_agrees_with_looking_at_everything_at_once() -> None:
    run_machine(6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fold_agrees_in_many_more_runs() -> None:
    run_machine(1000)

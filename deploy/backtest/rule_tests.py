"""Test rules against a table of answers, as `longwatch rules test --help` shows."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
)

from alerts.rules.health import HEALTH_PREFIX, HealthState
from alerts.rules.replay import replay
from alerts.rules.rule import Rule, RuleSample
from deploy.config.assemble import build_rules
from deploy.config.partial_settings import RulesSubset
from deploy.config.problems import SettingKey, SettingProblem
from deploy.config.settings import rule_contradictions, unknown_name
from deploy.config.settings_file import read_file, read_subset
from storage.duration import format_duration, parse_duration
from storage.settings import HomePath

_NUMBER = r"\d+(?:\.\d+)?"
_SERIES_TERM = re.compile(
    rf"(?:(_)|({_NUMBER})(?:([+-]{_NUMBER})(?=x))?)(?:x(\d{{1,6}}))?", re.ASCII
)
_MAX_SAMPLES = 100_000
_SERIES_HINT = 'write it as "0.1x4 0.9x9 _x2 0.2"'
NO_INCIDENT = "none"
Series = tuple[float | None, ...]


def parse_series(text: object) -> Series:
    """Parse promtool's notation; a missing sample is None. Raises ValueError."""
    terms = text.split() if isinstance(text, str) else []
    found: list[float | None] = []
    for match in map(_SERIES_TERM.fullmatch, terms):
        if match is None:
            raise ValueError(_SERIES_HINT)
        gap, value, slope, repeats = match.groups()
        count = int(repeats or 0)
        if len(found) + count > _MAX_SAMPLES:
            raise ValueError(f"more than {_MAX_SAMPLES} samples: write fewer")
        if gap:
            found += [None] * (count if repeats else 1)
        else:
            values = (float(value) + n * float(slope or 0) for n in range(count + 1))
            found += [round(each, 9) for each in values]
    if not found:
        raise ValueError(_SERIES_HINT)
    if any(score is not None and not 0 <= score <= 1 for score in found):
        raise ValueError("a score is between 0 and 1: correct it")
    return tuple(found)


def _parse_moment(value: object) -> timedelta | datetime:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    try:
        return parse_duration(value)
    except ValueError:
        raise ValueError("write it as 1m20s since the start, or 2026-11-23T18:00:00Z") from None


class Expectation(BaseModel):
    """The expected state of a rule's newest incident at a time."""

    model_config = ConfigDict(extra="forbid")

    at: Annotated[timedelta | datetime, PlainValidator(_parse_moment)]
    rule: str
    state: Literal["none", "pending", "open", "resolved", "dismissed"]


class RuleTest(BaseModel):
    """The answers about a camera, and the expected states."""

    model_config = ConfigDict(extra="forbid")

    name: str
    camera: str
    interval: Annotated[timedelta, BeforeValidator(parse_duration), Field(gt=timedelta())]
    start: AwareDatetime = datetime(2026, 1, 5, tzinfo=UTC)
    samples: dict[str, Annotated[Series, BeforeValidator(parse_series)]]
    expect: Annotated[list[Expectation], Field(min_length=1)]

    def instant_of(self, expected: Expectation) -> datetime:
        """Return the instant of an expectation."""
        return self.start + expected.at if isinstance(expected.at, timedelta) else expected.at

    def sorted_samples(self) -> list[RuleSample]:
        """Return the samples in order of time; those of one instant in the order of the file."""
        found = [
            RuleSample(
                id=f"{self.camera}@{n}/{question}",
                camera=self.camera,
                question=question,
                at=self.start + n * self.interval,
                score=score,
            )
            for question, series in self.samples.items()
            for n, score in enumerate(series)
            if score is not None
        ]
        return sorted(found, key=lambda sample: sample.at)


class RuleTests(BaseModel):
    """A file of tests."""

    model_config = ConfigDict(extra="forbid")

    rules: HomePath
    tests: Annotated[list[RuleTest], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTestResult:
    """The expected and the actual state."""

    test: str
    at: str
    rule: str
    expected: str
    got: str

    @property
    def passed(self) -> bool:
        """Return whether the state is as expected."""
        return self.got == self.expected


def run_tests(file: Path) -> list[RuleTestResult]:
    """Run the tests in a file; raise BadSettings if it or its settings cannot be used."""
    settings: list[RulesSubset] = []

    def problems(tests: RuleTests) -> Iterator[SettingProblem]:
        settings.append(read_subset(file.parent / tests.rules, RulesSubset, rule_contradictions))
        yield from _unknown_name_problems(tests, settings[0])

    tests = read_file(file, RuleTests, problems)
    rules = build_rules(settings[0])
    return [outcome for test in tests.tests for outcome in _run(test, rules)]


def _run(test: RuleTest, rules: Sequence[Rule]) -> Iterator[RuleTestResult]:
    for expected in test.expect:
        at = expected.at
        yield RuleTestResult(
            test=test.name,
            at=format_duration(at) if isinstance(at, timedelta) else at.isoformat(),
            rule=expected.rule,
            expected=expected.state,
            got=_resulting_state(test, rules, expected),
        )


def _resulting_state(test: RuleTest, rules: Sequence[Rule], expected: Expectation) -> str:
    until = test.instant_of(expected)
    samples = [sample for sample in test.sorted_samples() if sample.at <= until]
    named = [rule for rule in rules if rule.name == expected.rule]
    newest = [each[-1] for rule in named if (each := list(replay(rule, samples, until)))]
    return max(newest, key=lambda each: each.first_seen_at).state if newest else NO_INCIDENT


def _unknown_name_problems(tests: RuleTests, settings: RulesSubset) -> Iterator[SettingProblem]:
    rules = {rule.name for rule in settings.rules}
    questions = {
        *settings.questions,
        *(HEALTH_PREFIX + state for state in HealthState),
    }
    for n, test in enumerate(tests.tests):
        key: SettingKey = ("tests", n)
        yield from _name_problems((*key, "camera"), "camera", test.camera, set(settings.cameras))
        for name in test.samples:
            yield from _name_problems((*key, "samples", name), "question", name, questions)
        for m, expected in enumerate(test.expect):
            yield from _name_problems((*key, "expect", m, "rule"), "rule", expected.rule, rules)


def _name_problems(
    key: SettingKey, what: str, name: str, known: set[str]
) -> Iterator[SettingProblem]:
    if name not in known:
        yield SettingProblem(key=key, message=unknown_name(what, name, known))

"""Rules tested against a table of answers, as promtool tests those of Prometheus.

```yaml
rules: longwatch.yaml          # the settings whose rules are tested, seen from this file
tests:
  - name: a bag is left
    camera: dock
    interval: 16s              # from one answer to the next
    start: 2026-11-23T18:00:00Z  # of the first answer; matters to active hours
    samples:
      unattended_bag: "0.1x4 0.9x9 _x2 0.2"
    expect:
      - {at: 1m20s, rule: bag-left, state: pending}
```

Samples are written in promtool's notation: `0.9` once, `0.9x3` and three more, `0.1+0.2x3` and
three more, each greater by 0.2, `_` and `_x3` for one and three that are missing. A key
`health/camera_down` stands for what the ledger of coverage says. `at` is a duration since the
start, or an instant; an expected state is that of the newest incident when all up to then has
been judged, `none` where there is none yet.
"""

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
from deploy.config.settings import SettingKey, rule_contradictions
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
    """Read promtool's notation; None stands for a missing sample. Raises ValueError."""
    matches = (
        [_SERIES_TERM.fullmatch(term) for term in text.split()] if isinstance(text, str) else []
    )
    found: list[float | None] = []
    for match in matches:
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
        raise ValueError("a score lies between 0 and 1: correct it")
    return tuple(found)


def _parse_moment(value: object) -> timedelta | datetime:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    try:
        return parse_duration(value)
    except ValueError:
        raise ValueError("write it as 1m20s since the start, or 2026-11-23T18:00:00Z") from None


class Expectation(BaseModel):
    """The state in which a rule's newest incident is to be, `at` a time."""

    model_config = ConfigDict(extra="forbid")

    at: Annotated[timedelta | datetime, PlainValidator(_parse_moment)]
    rule: str
    state: Literal["none", "pending", "open", "resolved", "dismissed"]


class RuleTest(BaseModel):
    """What a camera's answers are, and what is to come of them."""

    model_config = ConfigDict(extra="forbid")

    name: str
    camera: str
    interval: Annotated[timedelta, BeforeValidator(parse_duration), Field(gt=timedelta())]
    start: AwareDatetime = datetime(2026, 1, 5, tzinfo=UTC)
    samples: dict[str, Annotated[Series, BeforeValidator(parse_series)]]
    expect: Annotated[list[Expectation], Field(min_length=1)]

    def instant_of(self, expected: Expectation) -> datetime:
        """Return the instant at which something is expected."""
        return self.start + expected.at if isinstance(expected.at, timedelta) else expected.at

    def sorted_samples(self) -> list[RuleSample]:
        """Return the samples in the order of time; those of one instant as they are written."""
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
    """What was expected, and what it was."""

    test: str
    at: str
    rule: str
    expected: str
    got: str

    @property
    def passed(self) -> bool:
        """Tell whether it was as expected."""
        return self.got == self.expected


def run_tests(file: Path) -> list[RuleTestResult]:
    """Run the tests in a file; raise BadSettings where it, or its settings, cannot be used."""
    settings: list[RulesSubset] = []

    def problems(tests: RuleTests) -> Iterator[tuple[SettingKey, str]]:
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
            got=_resulting_state(
                test, [rule for rule in rules if rule.name == expected.rule], expected
            ),
        )


def _resulting_state(test: RuleTest, rules: Sequence[Rule], expected: Expectation) -> str:
    until = test.instant_of(expected)
    samples = [sample for sample in test.sorted_samples() if sample.at <= until]
    newest = [each[-1] for rule in rules if (each := list(replay(rule, samples, until)))]
    return max(newest, key=lambda each: each.first_seen_at).state if newest else NO_INCIDENT


def _unknown_name_problems(
    tests: RuleTests, settings: RulesSubset
) -> Iterator[tuple[SettingKey, str]]:
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
) -> Iterator[tuple[SettingKey, str]]:
    if name not in known:
        yield key, f"no {what} is called {name!r} (known: {', '.join(sorted(known))})"

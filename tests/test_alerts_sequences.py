"""One question and then another, or then not the other."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from alerts.hours import Hours
from alerts.rules.replay import next_revisions, overdue_revisions
from alerts.rules.rule import RuleSample
from kit.alerts.samples import MINUTE, RULE, fold, sample_at
from kit.storage.fixtures import START
from storage.records.records import Incident, IncidentState

PENDING, OPEN = IncidentState.PENDING, IncidentState.OPEN
RESOLVED, DISMISSED = IncidentState.RESOLVED, IncidentState.DISMISSED
THEN = replace(RULE, question="drop", then="pick", within=10 * MINUTE)
WITHOUT = replace(RULE, question="drop", without="pick", within=10 * MINUTE)


def minute(n: float) -> datetime:
    return START + n * MINUTE


def parse_samples(text: str) -> list[RuleSample]:
    """Read `0d 3D 12P`: at which minute drop or pick was seen (capital) or not, `~` between."""
    samples = []
    for word in text.split():
        kind, number = word[-1], word[:-1]
        between = number.startswith("~")
        score = 0.6 if between else 0.9 if kind.isupper() else 0.1
        question = "drop" if kind in "dD" else "pick"
        samples.append(sample_at(minute(float(number.strip("~"))), score, question))
    return samples


def minutes(incident: Incident) -> list[float | None]:
    times = (incident.first_seen_at, incident.opened_at, incident.closed_at)
    return [None if each is None else (each - START) / MINUTE for each in times]


@pytest.mark.parametrize(
    ("samples", "state", "times"),
    [
        ("0D 1d 5p", PENDING, [0, None, None]),
        ("0D 1d 5P", OPEN, [0, 5, None]),
        ("0D 10P", OPEN, [0, 10, None]),
        ("0D 10.1P", DISMISSED, [0, None, 10]),
        ("0D 10.1p", DISMISSED, [0, None, 10]),
        ("0D ~8D 17P", OPEN, [0, 17, None]),
        ("0D 8d 17P", DISMISSED, [0, None, 10]),
        ("0D 0P", PENDING, [0, None, None]),
        ("0P 0D", PENDING, [0, None, None]),
        ("0D 1P ~2P ~20P", OPEN, [0, 1, None]),
        ("0D 1P 2p", RESOLVED, [0, 1, 2]),
        ("0D 1P 2d 3D", OPEN, [0, 1, None]),
        ("0D ~1P", PENDING, [0, None, None]),
    ],
)
def test_one_and_then_the_other(
    samples: str, state: IncidentState, times: list[float | None]
) -> None:
    (incident,) = fold(THEN, parse_samples(samples))
    assert (incident.state, minutes(incident)) == (state, times)


def test_sequence_keeps_firing_for_as_long_as_it_says() -> None:
    rule = replace(THEN, keep_firing_for=5 * MINUTE)
    assert [each.state for each in fold(rule, parse_samples("0D 1P 2p 5p"))] == [OPEN]
    assert [each.state for each in fold(rule, parse_samples("0D 1P 2p 6p"))] == [RESOLVED]


@pytest.mark.parametrize(
    ("samples", "state", "times"),
    [
        ("0D 1d 9p", PENDING, [0, None, None]),
        ("0D 1d 10d", PENDING, [0, None, None]),
        ("0D 1d 10.1d", OPEN, [0, 10, None]),
        ("0D 11p", OPEN, [0, 10, None]),
        ("0D 5D 11D", OPEN, [0, 10, None]),
        ("0D 0P 11d", OPEN, [0, 10, None]),
        ("0D ~5P 11d", OPEN, [0, 10, None]),
        ("0D 10P 10.5d", DISMISSED, [0, None, 10.5]),
        ("0D 3P 4D 8D 12D", PENDING, [0, None, None]),
        ("0D 3P 4d 5D 14D", PENDING, [5, None, None]),
        ("0D 3P 9d", DISMISSED, [0, None, 3]),
        ("0D 11P", RESOLVED, [0, 10, 11]),
        ("0D 11d ~12P 13p 90d", OPEN, [0, 10, None]),
        ("0D 11d 30P", RESOLVED, [0, 10, 30]),
    ],
)
def test_one_and_then_not_the_other(
    samples: str, state: IncidentState, times: list[float | None]
) -> None:
    incident = fold(WITHOUT, parse_samples(samples))[-1]
    assert (incident.state, minutes(incident)) == (state, times)


def test_the_end_of_a_wait_tells_both_samples() -> None:
    (incident,) = fold(WITHOUT, parse_samples("0D 11d 30P"))
    assert incident.evidence == tuple(sample.id for sample in parse_samples("0D 30P"))


def test_clock_notices_an_absence_while_the_camera_is_silent() -> None:
    (waiting,) = fold(WITHOUT, parse_samples("0D"))
    assert overdue_revisions(WITHOUT, waiting, minute(10)) == ()
    (open_,) = overdue_revisions(WITHOUT, waiting, minute(25))
    (by_sample,) = next_revisions(WITHOUT, waiting, parse_samples("11p")[0])[:1]
    assert (open_.state, minutes(open_), open_.revision) == (OPEN, [0, 10, None], 2)
    assert open_ == by_sample
    assert overdue_revisions(WITHOUT, open_, minute(99)) == ()


def test_second_that_is_told_late_still_resolves_what_the_clock_opened() -> None:
    (waiting,) = fold(WITHOUT, parse_samples("0D"))
    (open_,) = overdue_revisions(WITHOUT, waiting, minute(25))
    (resolved,) = next_revisions(WITHOUT, open_, parse_samples("9P")[0])
    assert (resolved.state, minutes(resolved)) == (RESOLVED, [0, 10, 10])


def test_clock_ends_a_wait_for_another() -> None:
    (waiting,) = fold(THEN, parse_samples("0D"))
    assert overdue_revisions(THEN, waiting, minute(10)) == ()
    (dismissed,) = overdue_revisions(THEN, waiting, minute(25))
    assert (dismissed.state, minutes(dismissed)) == (DISMISSED, [0, None, 10])
    assert overdue_revisions(THEN, dismissed, minute(99)) == ()
    assert overdue_revisions(THEN, None, minute(99)) == ()


@pytest.mark.parametrize(
    ("active", "expected"),
    [
        ("08:00-08:05", (DISMISSED, [0, None, 6])),
        ("08:00-08:11", (RESOLVED, [0, 10, 12])),
        ("08:00-09:00", (OPEN, [0, 10, None])),
    ],
)
def test_wait_ends_with_the_active_hours(
    active: str, expected: tuple[IncidentState, list[float | None]]
) -> None:
    rule = replace(WITHOUT, active=Hours.parse(f"{active} UTC"))
    (incident,) = fold(rule, parse_samples("0D 6d 12d"))
    assert (incident.state, minutes(incident)) == expected


def test_absence_that_would_be_noticed_outside_the_hours_is_dismissed() -> None:
    rule = replace(WITHOUT, active=Hours.parse("08:00-08:05 UTC"))
    (waiting,) = fold(rule, parse_samples("0D"))
    (dismissed,) = overdue_revisions(rule, waiting, minute(25))
    assert (dismissed.state, minutes(dismissed)) == (DISMISSED, [0, None, 10])


def test_quiet_time_holds_the_next_sequence_back() -> None:
    rule = replace(THEN, quiet=timedelta(minutes=5))
    assert len(fold(rule, parse_samples("0D 1P 2p 3D 6D"))) == 1
    assert len(fold(rule, parse_samples("0D 1P 2p 7D"))) == 2

"""What mutes alerts: matchers, silences, maintenance windows, and other alerts."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from alerts.dispatch.muting import (
    MAX_MATCHER_VALUE,
    Inhibition,
    Maintenance,
    Matcher,
    Muter,
    Silence,
    parse_matchers,
)
from alerts.hours import Hours
from kit.alerts.routing import an_open_incident
from kit.storage.fixtures import START

HOUR = timedelta(hours=1)
DOCK, YARD = an_open_incident(1, "dock"), an_open_incident(2, "yard")
DOWN = an_open_incident(3, "dock", "camera-down")


@pytest.mark.parametrize(
    ("text", "label", "fits"),
    [
        ("camera=dock", "dock", True),
        ("camera=dock", "dock-2", False),
        ("camera!=dock", "dock", False),
        ("camera!=dock", "yard", True),
        ("camera=~dock-.*", "dock-2", True),
        ("camera=~dock", "dock-2", False),  # all of the label, as in Alertmanager
        ("camera=~ock", "dock", False),
        ("camera=~dock|yard", "yard", True),
        ("camera!~dock-.*", "dock-2", False),
        ("camera!~dock-.*", "yard", True),
        ('camera = "dock"', "dock", True),
        ("camera=", "", True),
        ("camera=~.", "ü", True),
    ],
)
def test_matcher_matches(text: str, label: str, fits: bool) -> None:
    assert Matcher.parse(text).matches(label) is fits


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dock", "write it as camera=dock"),
        ("colour=red", "no label is called 'colour': choose one of camera, rule, severity"),
        ("camera=~(", "is no regular expression of RE2"),
        (r"camera=~(a)\1", "is no regular expression of RE2"),
        ("camera=~(?=a)", "is no regular expression of RE2"),
        (f"camera={'x' * (MAX_MATCHER_VALUE + 1)}", f"at most {MAX_MATCHER_VALUE} characters"),
        ("", "write it as camera=dock"),
    ],
)
def test_matcher_that_cannot_be_used_is_refused_with_what_to_write(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told.replace("(", r"\(")):
        Matcher.parse(text)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|aa)*b", "(a*)*b", ".*" * 60 + "b"])
def test_no_pattern_takes_long(pattern: str) -> None:
    began = time.monotonic()
    assert not Matcher.parse(f"camera=~{pattern}").matches("a" * 64)
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("texts", [[], ["camera=~.*"], ["camera!=dock"], ["camera="]])
def test_silence_of_everything_is_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="it would mute everything"):
        parse_matchers(texts)


def a_silence(*texts: str) -> Silence:
    matchers = parse_matchers(texts or ["camera=dock"])
    end = START + HOUR
    return Silence(id=UUID(int=1), matchers=matchers, start=START, end=end, who="ann")


@pytest.mark.parametrize(("minutes", "mutes"), [(-1, False), (0, True), (59, True), (60, False)])
def test_silence_holds_from_its_start_until_just_before_its_end(minutes: int, mutes: bool) -> None:
    muted = Muter(silences=[a_silence()]).reason_for(DOCK, START + timedelta(minutes=minutes))
    assert (muted is not None) is mutes


def test_silence_mutes_what_fits_all_its_matchers() -> None:
    silence = a_silence("camera=dock", "severity=~high|critical")
    assert silence.mutes(DOCK, START)
    assert not silence.mutes(replace(DOCK, severity="low"), START)
    assert not silence.mutes(YARD, START)


def test_longest_of_several_silences_says_until_when() -> None:
    longer = replace(a_silence(), id=UUID(int=2), end=START + 2 * HOUR, who="bob")
    muted = Muter(silences=[longer, a_silence()]).reason_for(DOCK, START)
    assert muted is not None
    assert (muted.until, muted.reason) == (START + 2 * HOUR, "silence 00000000 by bob")


def test_maintenance_mutes_its_cameras_in_its_hours() -> None:
    hours = Hours.parse("Sun 02:00-04:00 Europe/Berlin")
    mutes = Muter(maintenance=[Maintenance(cameras=("do*",), active=hours)])
    sunday = datetime(2026, 11, 22, 1, 30, tzinfo=UTC)
    muted = mutes.reason_for(DOCK, sunday)
    assert muted is not None
    assert muted.reason == "maintenance Sun 02:00-04:00 Europe/Berlin"
    assert mutes.reason_for(DOCK, sunday + 2 * HOUR) is None
    assert mutes.reason_for(YARD, sunday) is None
    everywhere = Muter(maintenance=[Maintenance(cameras=(), active=hours)])
    assert everywhere.reason_for(YARD, sunday) is not None


def test_camera_that_is_down_mutes_its_other_alerts_and_not_itself() -> None:
    inhibition = Inhibition(source=frozenset({"camera-down", "also-down"}))
    mutes = Muter(inhibitions=[inhibition], firing=[DOWN, an_open_incident(4, "dock", "also-down")])
    muted = mutes.reason_for(DOCK, START)
    assert muted is not None
    assert muted.reason.startswith("inhibited by camera-down on dock (")
    assert mutes.reason_for(YARD, START) is None
    assert mutes.reason_for(DOWN, START) is None


def test_inhibition_may_be_narrower_or_wider() -> None:
    low = (Matcher.parse("severity=low"),)
    narrow = Inhibition(source=frozenset({"camera-down"}), target=low)
    assert not narrow.mutes(DOCK, DOWN)
    assert narrow.mutes(replace(DOCK, severity="low"), DOWN)
    wide = Inhibition(source=frozenset({"camera-down"}), equal=())
    assert wide.mutes(YARD, DOWN)

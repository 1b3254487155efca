"""Active hours: what is read, what is refused, and what the clocks' changes make of them."""

import pickle
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.hours import Hours

MINUTE = timedelta(minutes=1)


def stretches(text: str, day: str) -> list[str]:
    """Return the spans of a written UTC day and the two around it, minute by minute."""
    hours = Hours.parse(text)
    begin = datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(days=1)
    minutes = [begin + n * MINUTE for n in range(3 * 24 * 60)]
    held = [hours.is_active_at(at) for at in minutes]
    found = []
    for n, at in enumerate(minutes):
        if held[n] and (n == 0 or not held[n - 1]):
            found.append(f"{at:%dT%H:%M}")
        if n and held[n - 1] and not held[n]:
            found[-1] += f"-{at:%dT%H:%M}"
    return found


@pytest.mark.parametrize(
    ("text", "day", "expected"),
    [
        # Friday's span ends on Saturday morning; none begins on Saturday. 2026-11-20 is a Friday.
        ("Mon-Fri 18:00-06:00 UTC", "2026-11-21", ["20T00:00-20T06:00", "20T18:00-21T06:00"]),
        ("Sat 18:00-06:00 UTC", "2026-11-22", ["21T18:00-22T06:00"]),
        ("sun,MON 09:00-10:00 UTC", "2026-11-22", ["22T09:00-22T10:00", "23T09:00-23T10:00"]),
        ("Sat-Sun 09:00-10:00 UTC", "2026-11-22", ["21T09:00-21T10:00", "22T09:00-22T10:00"]),
        ("Sun-Mon 23:00-24:00 UTC", "2026-11-22", ["22T23:00-23T00:00", "23T23:00"]),
        ("Sun 00:00-24:00 UTC", "2026-11-22", ["22T00:00-23T00:00"]),
        ("Sun 23:30-00:00 UTC", "2026-11-22", ["22T23:30-23T00:00"]),
        ("00:00-24:00 UTC", "2026-11-22", ["21T00:00"]),
        # Far from Greenwich, on both sides: 2026-11-22 is a Sunday there, too.
        ("Sun 00:00-06:00 Pacific/Kiritimati", "2026-11-22", ["21T10:00-21T16:00"]),
        ("Sun 18:00-06:00 Pacific/Pago_Pago", "2026-11-22", ["23T05:00-23T17:00"]),
        # Berlin, spring: 02:00 is followed by 03:00, at 01:00 UTC. 2026-03-29 is that Sunday.
        ("Sun 01:00-04:00 Europe/Berlin", "2026-03-29", ["29T00:00-29T02:00"]),
        ("Sun 02:30-04:00 Europe/Berlin", "2026-03-29", ["29T01:00-29T02:00"]),
        ("Sun 01:00-02:30 Europe/Berlin", "2026-03-29", ["29T00:00-29T01:00"]),
        ("Sun 02:10-02:50 Europe/Berlin", "2026-03-29", []),
        ("Sun 02:00-03:00 Europe/Berlin", "2026-03-29", []),
        ("Sat 18:00-06:00 Europe/Berlin", "2026-03-29", ["28T17:00-29T04:00"]),
        # Berlin, autumn: 03:00 is followed by 02:00, at 01:00 UTC. 2026-10-25 is that Sunday.
        ("Sun 01:00-04:00 Europe/Berlin", "2026-10-25", ["24T23:00-25T03:00"]),
        ("Sun 02:30-04:00 Europe/Berlin", "2026-10-25", ["25T00:30-25T03:00"]),
        ("Sun 01:00-02:30 Europe/Berlin", "2026-10-25", ["24T23:00-25T01:30"]),
        ("Sun 02:10-02:50 Europe/Berlin", "2026-10-25", ["25T00:10-25T01:50"]),
        ("Sat 18:00-06:00 Europe/Berlin", "2026-10-25", ["24T16:00-25T05:00"]),
        # New York, spring: 02:00 is followed by 03:00, at 07:00 UTC. 2026-03-08 is that Sunday.
        ("Sun 02:30-04:00 America/New_York", "2026-03-08", ["08T07:00-08T08:00"]),
        ("Sun 01:00-02:30 America/New_York", "2026-03-08", ["08T06:00-08T07:00"]),
        ("Sun 02:10-02:50 America/New_York", "2026-03-08", []),
        # New York, autumn: 02:00 is followed by 01:00, at 06:00 UTC. 2026-11-01 is that Sunday.
        ("Sun 01:30-04:00 America/New_York", "2026-11-01", ["01T05:30-01T09:00"]),
        ("Sun 00:00-01:30 America/New_York", "2026-11-01", ["01T04:00-01T06:30"]),
        # Kolkata never changes its clocks.
        ("Sun 02:30-04:00 Asia/Kolkata", "2026-03-29", ["28T21:00-28T22:30"]),
        ("Sun 02:30-04:00 Asia/Kolkata", "2026-10-25", ["24T21:00-24T22:30"]),
        # Cairo changes at midnight: Friday 2026-04-24 has no 00:00, it begins with 01:00.
        ("Fri 00:00-02:00 Africa/Cairo", "2026-04-24", ["23T22:00-23T23:00"]),
        # Lord Howe changes by half an hour: 02:00 is followed by 02:30, at 15:30 UTC.
        ("Sun 02:15-03:00 Australia/Lord_Howe", "2026-10-03", ["03T15:30-03T16:00"]),
        # Samoa left out a whole day, Friday 2011-12-30.
        ("Fri 08:00-12:00 Pacific/Apia", "2011-12-30", []),
    ],
)
def test_hours_hold(text: str, day: str, expected: list[str]) -> None:
    assert stretches(text, day) == expected


def test_several_spans_are_one() -> None:
    hours = Hours.parse("Mon-Fri 18:00-06:00 Europe/Berlin", "Sat-Sun 00:00-24:00 Europe/Berlin")
    monday_noon = datetime(2026, 11, 23, 11, tzinfo=UTC)
    held = [hours.is_active_at(monday_noon + timedelta(hours=12 * n)) for n in range(14)]
    assert held == [False, True] * 5 + [True] * 3 + [False]


def test_hours_hold_from_the_begin_up_to_the_end() -> None:
    hours = Hours.parse("09:00-10:00 UTC")
    begin = datetime(2026, 11, 23, 9, tzinfo=UTC)
    instant = timedelta(microseconds=1)
    assert not hours.is_active_at(begin - instant)
    assert hours.is_active_at(begin)
    assert hours.is_active_at(begin + timedelta(hours=1) - instant)
    assert not hours.is_active_at(begin + timedelta(hours=1))


def test_hours_hold_in_another_process() -> None:
    hours = Hours.parse("Mon-Fri 18:00-06:00 Europe/Berlin")
    assert pickle.loads(pickle.dumps(hours)) == hours


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "write it as Mon-Fri 18:00-06:00 Europe/Berlin"),
        ("Mon-Sun", "write it as"),
        ("Mon-Fri 18:00-06:00", "write it as"),
        ("Mon-Fri 18-06 UTC", "write it as"),
        ("18:00-6:00 UTC", "write it as"),
        ("Mon - Fri 18:00-06:00 UTC", "write it as"),
        ("Mon-Fri 25:00-06:00 UTC", "no clock shows 25:00"),
        ("Mon-Fri 18:60-06:00 UTC", "no clock shows 18:60"),
        ("Mon-Fri 18:00-24:01 UTC", "no clock shows 24:01"),
        ("Mon-Fri 24:00-06:00 UTC", "it never begins: write 00:00-24:00"),
        ("Mon-Fri 18:00-18:00 UTC", "it never begins: write 00:00-24:00"),
        ("Mo-Fr 18:00-06:00 UTC", "no day is called 'Mo': write Mon, Tue"),
        ("Mon- 18:00-06:00 UTC", "no day is called ''"),
        ("18:00-06:00 Europe/Berln", "no time zone is called 'Europe/Berln': did you mean Europe/"),
        ("18:00-06:00 berlin", "did you mean Europe/Berlin?"),
        ("18:00-06:00 Europe", "no time zone is called 'Europe'"),
        ("18:00-06:00 ../../etc/passwd", "no time zone is called"),
        ("18:00-06:00 /etc/passwd", "no time zone is called"),
        ("18:00-06:00 qqqq", "write one such as Europe/Berlin or UTC"),
    ],
)
def test_what_are_no_hours_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        Hours.parse(text)
    assert told in str(refused.value)


ZONES = ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC"]
times = st.integers(0, 24 * 60 - 1)


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(ZONES),
    times,
    times,
    st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_away_from_the_clocks_changes_the_wall_clock_decides(
    zone: str, begin: int, end: int, at: datetime
) -> None:
    near = (at + timedelta(hours=n) for n in (-30, 30))
    local = at.astimezone(ZoneInfo(zone))
    if begin == end or len({each.astimezone(ZoneInfo(zone)).utcoffset() for each in near}) > 1:
        return
    text = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02} {zone}"
    minute = local.hour * 60 + local.minute
    inside = begin <= minute < end if begin < end else not end <= minute < begin
    assert Hours.parse(text).is_active_at(at) is inside

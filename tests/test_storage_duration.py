from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.duration import format_duration, parse_duration

patient = settings(deadline=None)  # a busy machine is no failure


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("16s", 16),
        ("2m", 120),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("1d2h3m4s5ms", 93784.005),
    ],
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "16",
        "s",
        "-1s",
        "1.5s",
        "1 s",
        "1s1m",
        "16S",
        "1w",
        "1s\n",
        "٣s",
        "9" * 400 + "s",
        16,
        None,
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(text: object) -> None:
    with pytest.raises(ValueError, match="16s"):
        parse_duration(text)


@patient
@given(st.text(alphabet="0123456789dhms", max_size=30))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert parse_duration(text) >= timedelta()


@patient
@given(st.integers(min_value=0, max_value=10**12))
def test_durations_are_read_as_they_were_written(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration


def test_a_duration_is_written_short() -> None:
    assert format_duration(timedelta(seconds=3900)) == "1h5m"
    assert format_duration(timedelta(0)) == "0s"
